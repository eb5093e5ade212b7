"""Pages over many runs and over a whole data set: ours beside the published figures, and the audit of the data."""
