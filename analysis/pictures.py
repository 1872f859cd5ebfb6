"""The images of the examples that a report shows, small enough to be embedded.

Handed the folder of each task's images and the names that answers give; hands on JPEG bytes of at most `SIDE` pixels.
Names come from other people's files, so a name that leaves its folder is refused; a picture that is refused, missing,
too large or broken costs the picture alone, and the page shows its name.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image, ImageOps

SIDE = 96
QUALITY = 72
LARGEST_FILE = 50_000_000
BUDGET = 2_000_000
"""Bytes of all pictures of a page together."""


class Pictures:
    """Finds and shrinks pictures, each once, until the page has enough of them."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """Takes the folder that a task's image names are relative to."""
        self._folders = dict(folders)
        self._found: dict[tuple[str, str], bytes | None] = {}
        self._left = BUDGET

    def get(self, task: str, image: str) -> bytes | None:
        """The picture as JPEG, or None."""
        key = (task, image)
        if key not in self._found:
            path = self._path(task, image)
            made = None if path is None else thumbnail(path)
            if made is not None and len(made) > self._left:
                made = None
            self._left -= len(made or b"")
            self._found[key] = made
        return self._found[key]

    def _path(self, task: str, image: str) -> Path | None:
        return inside(self._folders[task], image) if task in self._folders else None


def inside(folder: Path, name: str) -> Path | None:
    """The file of that name in the folder; None where the name is not one, or leaves the folder on any platform.

    A symbolic link inside the folder is its owner's own and is followed.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if "\0" in name or not posix.parts or posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return None
    return folder / posix


def thumbnail(path: Path) -> bytes | None:
    """At most `SIDE` pixels a side, upright, as JPEG; None where there is no such image or it does not decode."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.draft("RGB", (2 * SIDE, 2 * SIDE))
                image = ImageOps.exif_transpose(opened).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY, optimize=True)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    return stream.getvalue()
