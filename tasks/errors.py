"""Errors of the tasks room that a user can cause. Each message names the value, where it came from and what
would do.
"""

from __future__ import annotations

from pathlib import Path


class TaskError(ValueError):
    """A task, split or option that does not exist, or a use that a task does not support."""


class PredictionError(ValueError):
    """Predictions that do not fit the questions that they claim to answer."""


class DatasetError(ValueError):
    """A dataset file that is absent or not of the official shape.

    Attributes:
        file: the file or folder at fault.
        record: the official id or the position of the record at fault; None where the whole file is.
    """

    def __init__(self, problem: str, *, file: Path, record: str | None = None) -> None:
        where = f"{file}" if record is None else f"{file}, record {record}"
        super().__init__(f"{where}: {problem}")
        self.problem = problem
        self.file = file
        self.record = record


class AbsentError(DatasetError):
    """A split, or a file beside it, that the folder does not hold at all."""
