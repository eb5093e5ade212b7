"""The one exception that stands for a mistake of the user's, not of the program's."""


class UserError(Exception):
    """Bad input: the message is one clear line that names the file or key and says what is legal.

    The commands print it without a traceback and exit with status 2.
    """
