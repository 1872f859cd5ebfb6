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

    Candidates are the `image_places`. The one that holds most of `probes` wins, the earlier at equal counts; if none
    holds any, the same is tried with folders that lie in one of their own name, as archives unpack them; and else it is
    the first that exists, so that a later `Split.check_images` can say what is missing and where.

    Args:
        usual: places relative to the dataset folder, likeliest first; those beginning with ".." are in a
            sibling.
        probes: a few image paths of the split.

    Raises:
        DatasetError: `images` was given and is no folder.
    """
    if images is not None and not images.is_dir():
        raise DatasetError("there is no such image folder", file=images)
    start, places = image_places(folder, images, usual)
    present = [start / place for place in places if _is_folder(start / place)]
    return _most_of(present, probes) or _most_of(_nested(present, probes), probes) or next(iter(present), folder)


def image_places(folder: Path, images: Path | None, usual: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    """Where images are looked for: a folder, and places relative to it.

    These are the usual places under `folder` or, when given, `images` itself and the usual places below it.
    """
    if images is None:
        return folder, tuple(place or "." for place in usual)
    return images, tuple(dict.fromkeys([".", *(place or "." for place in usual if not place.startswith(".."))]))


def _most_of(candidates: Sequence[Path], probes: Sequence[str]) -> Path | None:
    """The folder that holds most of the probes; None where none holds any."""
    counts = [sum(_exists(candidate, probe) for probe in dict.fromkeys(probes)) for candidate in candidates]
    return candidates[counts.index(max(counts))] if any(counts) else None


def _nested(candidates: Sequence[Path], probes: Sequence[str]) -> list[Path]:
    """`images/images` beside `images`, and `train2014` where `train2014/1.jpg` is in `train2014/train2014`; twice."""
    first = {PurePosixPath(probe).parts[0] for probe in probes if len(PurePosixPath(probe).parts) > 1}
    found: list[Path] = []
    for candidate in candidates:
        own = candidate.resolve().name if candidate.name in ("", "..") else candidate.name
        for name in dict.fromkeys((own, *sorted(first))):
            found += [place for place in (candidate / name, candidate / name / name) if name and _is_folder(place)]
    return found


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError:  # a name the file system cannot hold
        return False


def _exists(root: Path, relative: str) -> bool:
    try:
        return (root / relative).is_file()
    except OSError:
        return False
