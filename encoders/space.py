"""Room on the disk: what an extraction is still to store on each file system, and what is free there.

Handed stores with the number of images that each lacks, whoever is to compute them; hands on the sums, and refuses what
does not fit before anything is computed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from encoders.errors import StoreError
from encoders.store import FeatureStore


class Room(NamedTuple):
    """One file system.

    Attributes:
        folder: the folder of stores on it, or a store that is a link to it.
        needed: bytes that are to be stored.
        at_most: bytes of regions beside that, of which images have as many or fewer.
        free: bytes.
    """

    folder: Path
    needed: int
    at_most: int
    free: int

    @property
    def enough(self) -> bool:
        """Whether what is certain fits."""
        return self.needed <= self.free

    def __str__(self) -> str:
        more = f" and at most {gigabytes(self.at_most)} of regions" if self.at_most else ""
        return f"{gigabytes(self.needed)}{more} to store in {self.folder}, {gigabytes(self.free)} free"


def rooms(lacking: Sequence[tuple[FeatureStore, int]]) -> list[Room]:
    """What stores need for so many images each, by file system."""
    found: dict[int, Room] = {}
    for store, images in lacking:
        standing = next(folder for folder in (store.folder, *store.folder.parents) if folder.exists())
        named = store.folder if store.folder.is_symlink() else store.folder.parent
        before = found.get(device := standing.stat().st_dev, Room(named, 0, 0, 0))
        size = images * store.bytes_per_image
        needed, at_most = (size, 0) if store.meta.boxes else (0, size)
        free = shutil.disk_usage(standing).free
        found[device] = Room(before.folder, before.needed + needed, before.at_most + at_most, free)
    return list(found.values())


def require_space(found: Sequence[Room]) -> None:
    """Refuses what a disk has no room for.

    Raises:
        StoreError: fewer bytes are free.
    """
    for room in found:
        if not room.enough:
            wanted, left = gigabytes(room.needed), gigabytes(room.free)
            raise StoreError(
                f"{room.folder} needs {wanted} more, but {left} are free: pool the tokens (?pool=7x7), free some, or"
                " name another folder with --cache"
            )


def gigabytes(count: int) -> str:
    """As disks are sold: 10⁹ bytes."""
    return f"{count / 1e9:,.2f} GB"
