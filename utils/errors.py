"""The error that a person can act upon."""

import errno

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # full, or not to be written to


class UserError(Exception):
    """Bad input, told in one sentence: what was given, what was expected, what to do.

    `main.py` prints the sentence without a traceback and exits with code 2.
    """


class WriteError(UserError):
    """A file could not be written. Its `__cause__` is the OSError that tells why."""
