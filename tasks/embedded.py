"""Images that a Hub mirror embeds in its Parquet files, written out as the files that encoders read.

Handed the examples that were read from such a table; hands on a folder `unpacked_images/` in the dataset folder. An
image that is there is not written again, and a file is complete or absent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tasks.errors import DatasetError
from tasks.paths import resolve_image
from tasks.tables import embedded_images

FOLDER = "unpacked_images"


class Embedded(NamedTuple):
    """Where an example's image is: a row of a Parquet file."""

    file: Path
    row: int


def unpack(places: Iterable[tuple[str, Embedded]], root: Path) -> int:
    """Writes the images that are not under `root` yet; returns how many were written.

    Args:
        places: image path and where it is embedded; a path may come several times.

    Raises:
        DatasetError: the folder cannot be written, or a path leaves it.
    """
    wanted: dict[Path, dict[int, str]] = {}
    seen: set[str] = set()
    for image, place in places:
        if image not in seen and not resolve_image(root, image).is_file():
            wanted.setdefault(place.file, {})[place.row] = image
        seen.add(image)
    written = 0
    for file, rows in wanted.items():
        for row, content in enumerate(embedded_images(file)):
            if row in rows and content is not None:
                _write(resolve_image(root, rows[row], file=file, record=f"row {row}"), content)
                written += 1
    return written


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        problem = f"an embedded image cannot be written there ({error.strerror}): name a folder of images with --images"
        raise DatasetError(problem, file=path) from error
