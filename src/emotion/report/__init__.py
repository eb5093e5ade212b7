"""The report page, which compares runs with each other and with the paper, and the files of an audit of the data."""
