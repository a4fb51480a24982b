"""The one exception that a user sees as a message instead of a traceback."""


class UserError(Exception):
    """Something the user gave cannot work.

    The message is the whole explanation: what must hold, what was given, what to change.
    Entry points print it and exit with status 2; library callers catch it like any exception.
    """
