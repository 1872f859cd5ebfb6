"""Region features in HDF5: a group an image, arrays stacked over images, or GQA's object features.

Handed a file; hands on the same as `encoders.region_files`. h5py is imported only where such a file is met.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped,unused-ignore]
import numpy as np

from encoders.errors import EncoderError
from encoders.region_files import BOXES, COUNTS, FEATURES, HEIGHTS, UNIT_BOXES, WIDTHS, Entry, Region, RegionFile

IDS = ("ids", "image_ids", "image_id", "img_ids")
KNOWN = (*FEATURES, *BOXES, *UNIT_BOXES, *WIDTHS, *HEIGHTS, *COUNTS)
GQA_FILE, GQA_INFO = re.compile(r"(.*objects)_([0-9]+)\.h5"), "_info.json"


class Hdf5File(RegionFile):
    """One HDF5 file.

    Three layouts: `IMAGE/features`, `IMAGE/boxes` (sizes as `IMAGE/img_w` or attributes); `features`, `boxes` over
    all images with `ids` in the same order (a pickled index beside them is not read); GQA's `gqa_objects_0.h5` and
    so on, whose `gqa_objects_info.json` says which row is whose.
    """

    def parts(self) -> list[Path]:
        info = self._info_file()
        return [self.path] if info is None else [self.path, info]

    def entries(self) -> list[Entry]:
        with self._open() as file:
            names = [name for name in FEATURES if isinstance(file.get(name), h5py.Dataset)]
            if not names:
                return [self._of_group(name, file[name]) for name in sorted(file)]
            features = file[names[0]]
            return [
                Entry(image, row, min(count, features.shape[1]), features.shape[2])
                for image, row, count in self._rows(file, features)
            ]

    def read(self, entry: Entry) -> Region:
        with self._open() as file:
            if entry.place < 0:
                group = file[entry.image]
                arrays = {name: np.asarray(group[name]) for name in group if name in KNOWN}
                return self.region(entry.image, {**dict(group.attrs), **arrays})
            arrays = {name: np.asarray(file[name][entry.place]) for name in file if name in KNOWN}
            return self.region(entry.image, {**self._gqa().get(entry.image, {}), **arrays, "num_boxes": entry.rows})

    def _of_group(self, image: str, group: Any) -> Entry:
        found = [group[name] for name in FEATURES if isinstance(group, h5py.Group) and name in group]
        if not found or found[0].ndim != 2:
            raise EncoderError(f"{self.path}: {image!r} has no features of regions by width: {', '.join(FEATURES)}")
        return Entry(image, -1, *found[0].shape)

    def _rows(self, file: Any, features: Any) -> list[tuple[str, int, int]]:
        """Image, row and number of regions of stacked arrays."""
        if features.ndim != 3:
            raise EncoderError(f"{self.path}: {features.name} has shape {features.shape}, not images, regions, width")
        counted = [file[name][:] for name in COUNTS if name in file]
        info = self._gqa()
        if info:
            return [(image, int(one["idx"]), int(one["objectsNum"])) for image, one in sorted(info.items())]
        listed = [file[name][:] for name in IDS if name in file]
        if not listed or len(listed[0]) != len(features):
            raise EncoderError(f"{self.path} does not say which row is whose image: it needs {' or '.join(IDS)}")
        ids = [value.decode() if isinstance(value, bytes) else str(value) for value in listed[0].tolist()]
        counts = counted[0].tolist() if counted else [features.shape[1]] * len(ids)
        return [(image, row, int(count)) for row, (image, count) in enumerate(zip(ids, counts, strict=True))]

    def _gqa(self) -> dict[str, dict[str, Any]]:
        """What GQA says of the images in this one of its files; nothing for other files."""
        info = self._info_file()
        if info is None:
            return {}
        if not hasattr(self, "_info"):
            number = int(GQA_FILE.sub(r"\2", self.path.name))
            try:
                described = json.loads(info.read_text(encoding="utf-8"))
                self._info = {image: one for image, one in described.items() if int(one["file"]) == number}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise EncoderError(f"{info} does not describe GQA's object features: {error}") from error
        return self._info

    def _info_file(self) -> Path | None:
        matched = GQA_FILE.fullmatch(self.path.name)
        info = Path(self.path.parent, f"{matched[1]}{GQA_INFO}") if matched else None
        return info if info is not None and info.is_file() else None

    def _open(self) -> Any:
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise EncoderError(f"cannot read region features {self.path}: {' '.join(str(error).split())}") from error
