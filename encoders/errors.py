"""Errors of the encoders room that a user can cause.

Each message names the value, where it came from and what would do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EncoderError(ValueError):
    """An encoder, backend, option or checkpoint file that does not exist or cannot be used."""


class StoreError(ValueError):
    """A feature store that is absent, torn, altered, or written under other settings."""


class UnreadableError(StoreError):
    """A file of a store that cannot be read at the moment, which is no reason to think that it is damaged."""


class ForeignError(StoreError):
    """A store or a part of another format, or a store under another folder's name, which is not damaged for that."""


class ImageError(ValueError):
    """Image files that are missing or cannot be decoded.

    Attributes:
        problems: image path -> what is wrong with it.
    """

    def __init__(self, problems: dict[str, str], *, shown: int = 8) -> None:
        listed = [f"{path} ({why})" for path, why in problems.items()]
        rest = f"; and {len(listed) - shown} more: python -m tasks.check DATASET FOLDER --exclude FILE writes them all"
        more = rest if len(listed) > shown else ""
        count = f"{len(listed)} images" if len(listed) != 1 else "1 image"
        super().__init__(f"{count} cannot be read: {'; '.join(listed[:shown])}{more}")
        self.problems = problems


class UndecodableError(ImageError):
    """Image files that are there, and will never decode; on request an extraction goes on without them."""


def nearest(value: str, choices: Iterable[str], *, shown: int = 12) -> str:
    """The second half of an error message: the nearest valid choice, and the choices where they are few."""
    names = list(choices)
    near = get_close_matches(value, names, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    if names and (len(names) <= shown or not near):
        listed = f"choices are {', '.join(names[:shown])}{', …' if len(names) > shown else ''}"
        hint = f"{hint} {listed}" if hint else listed
    return hint or "there is no choice"
