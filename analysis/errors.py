"""Errors that a user of a run folder, or of a live model, can cause.

Each message names the value, the file it came from and what would have been accepted.
"""


class RunFolderError(ValueError):
    """A file of the run folder is missing, unreadable or of the wrong shape."""


class AnswersError(RunFolderError):
    """The stored answers do not form a complete table: misaligned, duplicate or missing cells."""


class LiveModelError(ValueError):
    """A model cannot be looked at in the way that was asked for."""
