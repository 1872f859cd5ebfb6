"""Encoders by lookup: `regions:FOLDER`, features that a detector gave earlier, found again by the image's file name.

Handed image files; hands on the regions of each with their boxes as positions, in varying number. A folder may
hold any mixture of the files that `encoders.region_files` reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from encoders.base import FileEncoder, Rows, digest_json
from encoders.durable import write_whole
from encoders.errors import EncoderError, nearest
from encoders.preprocess import Preprocess
from encoders.region_files import Entry, Region, RegionFile, open_region_files
from encoders.spec import EncoderSpec

INDEX = ".regions-index.json"
UNTOUCHED = Preprocess(
    resize="none", size=(0, 0), interpolation="nearest", crop=None, mean=(0.0,) * 3, std=(1.0,) * 3, scale=None
)
"""No pixels are read, so there is nothing to describe."""
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
"""The entry of EXIF that says how a picture was held, and its values for one held on its side."""
Stamp = dict[str, list[int]]
"""Files by name -> their size, times of change and inode, which no copy leaves as they were."""


def load_regions(spec: EncoderSpec, *, device: str) -> FileEncoder:
    """The region features in the folder that the spec names; the device does not matter.

    Raises:
        EncoderError: the folder is absent or has no region features, or files disagree.
    """
    folder = Path(spec.name).expanduser()
    if not folder.is_dir():
        siblings = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
        raise EncoderError(f"encoder {spec}: there is no folder {folder}; {nearest(folder.name, siblings)}")
    return RegionEncoder(spec, folder)


class RegionEncoder(FileEncoder):
    """Regions of images, looked up by file name: the stem, or else the number at its end.

    `COCO_val2014_000000391895.jpg` has the regions of `COCO_val2014_000000391895` or of `391895`; where the file says
    how large the image is, one of another size is refused, for numbers mean other images in other data sets. The
    fingerprint covers the bytes of every file, and files that change while the encoder is in use are refused.
    """

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        settings = spec.settings()
        self.alias, self.name = spec.alias, f"regions:{folder.resolve().name}"
        self.dtype, self.preprocess = settings.dtype, UNTOUCHED
        self._top, self._folder = settings.top, folder
        self._files = open_region_files(folder)
        if not self._files:
            kinds = "tsv, npz, npy, safetensors, h5, hdf5"
            raise EncoderError(f"encoder {spec}: {folder} has no files of region features ({kinds})")
        self._content, found, self._stamps = _scan(folder, self._files)
        self._entries = _by_image(spec, self._files, found)
        self._numbers = _by_number(self._entries)
        widths = sorted({entry.width for _, entry in self._entries.values()})
        if len(widths) != 1:
            raise EncoderError(f"encoder {spec}: {folder} has features of widths {', '.join(map(str, widths))}")
        longest = max(entry.rows for _, entry in self._entries.values())
        self.width, self.num_prefix, self.num_params = widths[0], 0, 0
        self.grid = (1, min(longest, self._top or longest))
        self.fingerprint = self.identity()

    def settings(self) -> Mapping[str, Any]:
        return {"regions": self._content, "top": self._top}

    def images(self) -> list[str]:
        """The images that have regions, as their files name them."""
        return sorted(self._entries)

    def rows(self, paths: Sequence[Path]) -> Rows:
        regions = [self._read(path) for path in paths]
        places = [region.corners for region in regions] or [np.zeros((0, 4), np.float32)]
        corners = torch.from_numpy(np.concatenate(places))
        features = [region.features for region in regions] or [np.zeros((0, self.width), np.float32)]
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
        lengths = torch.tensor([len(region.features) for region in regions], dtype=torch.int32)
        return Rows(torch.from_numpy(np.concatenate(features)), boxes, lengths)

    def _read(self, path: Path) -> Region:
        file, entry = self._entries[self._image(path)]
        try:
            region = file.read(entry)
        finally:  # what was changed meanwhile may also fail to be read
            self._refuse_changed(file)
        self._refuse_another_size(path, entry, region)
        if region.features.shape[1] != self.width:
            wide = region.features.shape[1]
            raise EncoderError(f"{file.path}: features of {entry.image} have width {wide}, others {self.width}")
        return Region(region.features[: self._top], region.corners[: self._top])

    def _refuse_changed(self, file: RegionFile) -> None:
        if _stamp(self._folder, file) != self._stamps[file.path]:
            raise EncoderError(
                f"{file.path} was changed since encoder {self.alias} was loaded; load it again, and its fingerprint "
                "will be that of the new bytes"
            )

    def _refuse_another_size(self, path: Path, entry: Entry, region: Region) -> None:
        sizes = [] if region.size is None else _sizes_of(path)
        if region.size is None or not sizes or region.size in sizes:
            return
        # A file of the very name may be the image at another resolution: boxes are shares of it.
        width, height = region.size
        same_shape = any(abs(across * height - down * width) <= max(width, height) for across, down in sizes)
        if path.stem != entry.image or not same_shape:
            given, known = ("x".join(f"{side:g}" for side in size) for size in (sizes[0], region.size))
            raise EncoderError(
                f"encoder {self.alias}: {path} is {given} pixels, and the regions of {entry.image} are of an image of "
                f"{known}: it is another image of that number, or was resized"
            )

    def _image(self, path: Path) -> str:
        if path.stem in self._entries:
            return path.stem
        number = _number(path.stem)
        images = [] if number is None else self._numbers.get(number, [])
        if len(images) == 1:
            return images[0]
        if images:
            raise EncoderError(f"encoder {self.alias}: {path} could be any of {', '.join(sorted(images))}")
        raise EncoderError(f"encoder {self.alias} has no regions of {path}; {nearest(path.stem, self._entries)}")


def _scan(folder: Path, files: Sequence[RegionFile]) -> tuple[str, list[list[Entry]], dict[Path, Stamp]]:
    """Digest of all files, what each has, and its stamp; remembered beside them for files with the same stamp.

    Raises:
        EncoderError: a file is being written.
    """
    known = _read_index(folder)
    index: dict[str, Any] = {}
    for file in files:
        name, stamp = file.path.relative_to(folder).as_posix(), _stamp(folder, file)
        if known.get(name, {}).get("stamp") == stamp:
            index[name] = known[name]
            continue
        digests = {}
        for part in file.parts():
            with part.open("rb") as handle:
                digests[part.relative_to(folder).as_posix()] = hashlib.file_digest(handle, "sha256").hexdigest()
        index[name] = {"stamp": stamp, "sha256": digests, "entries": [list(entry) for entry in file.entries()]}
        if _stamp(folder, file) != stamp:
            raise EncoderError(f"{file.path} changed while it was being read")
    if index != known:
        _write_index(folder, index)
    content = digest_json({name: digest for one in index.values() for name, digest in one["sha256"].items()})
    entries = [[Entry(*values) for values in one["entries"]] for one in index.values()]
    return content, entries, {file.path: one["stamp"] for file, one in zip(files, index.values(), strict=True)}


def _stamp(folder: Path, file: RegionFile) -> Stamp:
    """What tells whether the file, and those beside it that describe it, are what they were."""
    states = {part.relative_to(folder).as_posix(): part.stat() for part in file.parts() if part.exists()}
    return {
        name: [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino] for name, state in states.items()
    }


def _sizes_of(path: Path) -> list[tuple[float, float]]:
    """An image's width and height by its header; both ways round where it was held on its side. None of no image."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in ON_ITS_SIDE
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
        return []
    return [(width, height), (height, width)] if turned else [(width, height)]


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Whole or not at all; a folder that cannot be written is scanned each time."""
    text = json.dumps(index)
    with suppress(OSError):
        write_whole(folder / INDEX, lambda handle: handle.write(text.encode()))


def _by_image(
    spec: EncoderSpec, files: Sequence[RegionFile], found: Sequence[Sequence[Entry]]
) -> dict[str, tuple[RegionFile, Entry]]:
    entries: dict[str, tuple[RegionFile, Entry]] = {}
    for file, listed in zip(files, found, strict=True):
        for entry in listed:
            if entry.image in entries:
                first = entries[entry.image][0].path
                raise EncoderError(f"encoder {spec}: image {entry.image} is in {first} and in {file.path}")
            entries[entry.image] = (file, entry)
    return entries


def _by_number(images: Mapping[str, Any]) -> dict[int, list[str]]:
    numbers: dict[int, list[str]] = {}
    for image in images:
        number = _number(image)
        if number is not None:
            numbers.setdefault(number, []).append(image)
    return numbers


def _number(name: str) -> int | None:
    """The number at the end of a name, without leading zeros."""
    found = re.search(r"([0-9]{1,18})$", name)
    return int(found[1]) if found else None
