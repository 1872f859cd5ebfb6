"""Where images lie: checks of paths that annotations name, and the search for the folder they are relative
to.

Datasets share images (SNLI-VE uses Flickr30k's, VQAv2 uses COCO's), so the search also looks into sibling
folders under their usual names. A path that leaves the image root is refused, since annotations are other
people's files; a symbolic link inside the root is the user's own and is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from tasks.errors import DatasetError


def relative_image(relative: str, *, file: Path, record: str | None = None) -> str:
    """The path in its one canonical spelling ("a//./b.jpg" and "a/b.jpg" are one image).

    Raises:
        DatasetError: the path is empty, absolute, or climbs out of its root, by the rules of any platform.
    """
    posix, windows = PurePosixPath(relative), PureWindowsPath(relative)
    if "\0" in relative or not posix.parts:
        raise DatasetError(f"image path {relative!a} names no file", file=file, record=record)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise DatasetError(f"image path {relative!a} leaves the image root", file=file, record=record)
    return posix.as_posix()


def resolve_image(root: Path, relative: str, *, file: Path | None = None, record: str | None = None) -> Path:
    """The image file under `root`, which need not exist.

    Args:
        file: the file that named the path, for the error.

    Raises:
        DatasetError: the path leaves the root.
    """
    return root / relative_image(relative, file=root if file is None else file, record=record)


def find_image_root(folder: Path, images: Path | None, usual: Sequence[str], probes: Sequence[str]) -> Path:
    """The folder that image paths are relative to.

    Candidates are the usual places under `folder` or, when given, `images` itself and the usual places below
    it. The one that holds most of `probes` wins, the earlier at equal counts; if none holds any, the first
    that exists, so that a later `Split.check_images` can say what is missing and where.

    Args:
        usual: places relative to the dataset folder, likeliest first; those beginning with ".." are in a
            sibling.
        probes: a few image paths of the split.

    Raises:
        DatasetError: `images` was given and is no folder.
    """
    if images is None:
        candidates = [folder / place for place in usual]
    else:
        if not images.is_dir():
            raise DatasetError("there is no such image folder", file=images)
        candidates = [images, *(images / place for place in usual if not place.startswith(".."))]
    present = [candidate for candidate in candidates if candidate.is_dir()]
    counts = [sum(_exists(candidate, probe) for probe in dict.fromkeys(probes)) for candidate in present]
    if not present:
        return folder
    return present[counts.index(max(counts))]


def _exists(root: Path, relative: str) -> bool:
    try:
        return (root / relative).is_file()
    except OSError:
        return False
