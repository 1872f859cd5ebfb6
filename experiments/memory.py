"""The error of a batch that is too large for the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from experiments.errors import ConfigError


@contextmanager
def fits(what: str, remedy: str) -> Iterator[None]:
    """Says what did not fit, and the setting that makes it, where the GPU has no memory left.

    Raises:
        ConfigError: it does not.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"{what} does not fit the GPU's memory: {remedy}") from error
