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

    `COCO_val2014_000000391895.jpg` has the regions of `COCO_val2014_000000391895` or of `391895`. The fingerprint
    covers the bytes of every file.
    """

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        settings = spec.settings()
        self.alias, self.name = spec.alias, f"regions:{folder.resolve().name}"
        self.dtype, self.preprocess = settings.dtype, UNTOUCHED
        self._top = settings.top
        self._files = open_region_files(folder)
        if not self._files:
            kinds = "tsv, npz, npy, safetensors, h5, hdf5"
            raise EncoderError(f"encoder {spec}: {folder} has no files of region features ({kinds})")
        self._content, found = _scan(folder, self._files)
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
        corners = torch.from_numpy(np.concatenate([corner for _, corner in regions] or [np.zeros((0, 4), np.float32)]))
        features = [features for features, _ in regions] or [np.zeros((0, self.width), np.float32)]
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
        lengths = torch.tensor([len(features) for features, _ in regions], dtype=torch.int32)
        return Rows(torch.from_numpy(np.concatenate(features)), boxes, lengths)

    def _read(self, path: Path) -> Region:
        file, entry = self._entries[self._image(path)]
        region = file.read(entry)
        if region.features.shape[1] != self.width:
            wide = region.features.shape[1]
            raise EncoderError(f"{file.path}: features of {entry.image} have width {wide}, others {self.width}")
        return Region(region.features[: self._top], region.corners[: self._top])

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


def _scan(folder: Path, files: Sequence[RegionFile]) -> tuple[str, list[list[Entry]]]:
    """Digest of all files and what each has; remembered beside them for files of the same size and time."""
    known = _read_index(folder)
    index: dict[str, Any] = {}
    for file in files:
        name, state = file.path.relative_to(folder).as_posix(), file.path.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        if known.get(name, {}).get("stamp") == stamp:
            index[name] = known[name]
        else:
            with file.path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            index[name] = {"stamp": stamp, "sha256": digest, "entries": [list(entry) for entry in file.entries()]}
    if index != known:
        _write_index(folder, index)
    content = digest_json({name: one["sha256"] for name, one in index.items()})
    return content, [[Entry(*values) for values in one["entries"]] for one in index.values()]


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
