"""The one exception for what a user can mend."""


class CatwalkError(Exception):
    """Something in the user's data, options or files is wrong, and the message says what and how to mend it.

    The command line prints the message on one line, without a traceback, and exits with code 2. Everything else that
    is raised is a bug of ours and keeps its traceback.
    """


class DivergedError(CatwalkError, ValueError):
    """A training has diverged: a loss or a score is NaN or infinite."""


class TooLargeError(CatwalkError):
    """Something takes more memory than the machine has."""
