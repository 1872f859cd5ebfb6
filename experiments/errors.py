"""The error of a setting that cannot be honoured, and the list of all errors that a user can cause."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """A setting, preset or run folder that cannot be honoured; the message says which and what would do."""


def near(value: str, valid: Iterable[str]) -> str:
    """`did you mean 'lr'? valid: lr, steps`, without the question where nothing is near."""
    names = list(valid)
    close = get_close_matches(value, names, n=1)
    listed = "valid: " + ", ".join(names)
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def user_errors() -> tuple[type[Exception], ...]:
    """Errors that end a command with one line and a non-zero exit; anything else is a defect of ours."""
    from analysis.errors import RunFolderError
    from encoders.errors import EncoderError, ImageError, StoreError
    from experiments.world.build import WorldError
    from fusion.errors import FusionError
    from tasks.errors import DatasetError, PredictionError, TaskError

    return (
        ConfigError,
        WorldError,
        EncoderError,
        ImageError,
        StoreError,
        FusionError,
        DatasetError,
        PredictionError,
        TaskError,
        RunFolderError,
        OSError,
        *((sys.modules["torch"].OutOfMemoryError,) if "torch" in sys.modules else ()),
    )
