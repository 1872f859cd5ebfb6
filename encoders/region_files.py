"""Files of precomputed region features, as detectors' users pass them around.

Handed a file; hands on which images it has (`RegionFile.entries`) and each one's features with corners in 0-1.
Read are: the tab-separated files of bottom-up attention and of LXMERT, one `.npz`, `.npy` or `.safetensors` an
image (UNITER's and the PyTorch port of bottom-up attention's keys), and HDF5 with a group an image, with stacked
arrays, or as GQA gives its object features. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from encoders.errors import EncoderError
from encoders.pooling import grid_boxes

FEATURES = ("features", "x", "feat", "image_features", "roi_features")
BOXES = ("boxes", "bbox", "bboxes", "image_bb")
UNIT_BOXES = ("norm_bb", "normalized_boxes", "spatial_features")
"""Corners in 0-1 come first in these; further columns (width, height, area) are left out."""
WIDTHS, HEIGHTS = ("image_w", "img_w", "width", "image_width"), ("image_h", "img_h", "height", "image_height")
COUNTS = ("num_boxes", "num_bbox", "objectsNum")
TSV_COLUMNS = {
    6: ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    10: (
        *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
        *("num_boxes", "boxes", "features"),
    ),
}
"""Number of columns -> their names: bottom-up attention's own files, and LXMERT's; neither has a header."""


class Region(NamedTuple):
    """One image's regions, and where the file says so the image's width and height in pixels."""

    features: NDArray[np.float32]
    corners: NDArray[np.float32]
    size: tuple[float, float] | None = None


class Entry(NamedTuple):
    """Where one image's regions are in a file, and how many and how wide they are."""

    image: str
    place: int
    rows: int
    width: int


class RegionFile(ABC):
    """A file of region features, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def parts(self) -> list[Path]:
        """The file, and those beside it that say what is in it."""
        return [self.path]

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Every image that the file has.

        Raises:
            EncoderError: the file is not of its format.
        """

    @abstractmethod
    def read(self, entry: Entry) -> Region:
        """One image's regions.

        Raises:
            EncoderError: they are not of the shape that the file says, or their boxes lie outside the image.
        """

    def region(self, image: str, arrays: Mapping[str, Any]) -> Region:
        """Features and corners under whichever of the known names they have."""
        features = _pick(arrays, FEATURES)
        if features is None:
            raise EncoderError(f"{self.path} has no features of image {image}: {_have(arrays, FEATURES)}")
        size = _size(arrays)
        values, corners = np.asarray(features, dtype=np.float32), self._corners(image, arrays, size)
        if values.ndim == 3 and corners is None:
            corners = _cells(*values.shape[:2])
            values = values.reshape(-1, values.shape[2])
        if corners is None:
            corners = np.tile(np.array([0, 0, 1, 1], np.float32), (len(values), 1))
        count = _pick(arrays, COUNTS)
        limit = len(values) if count is None else int(np.asarray(count).reshape(-1)[0])
        if values.ndim != 2 or len(values) != len(corners) or not len(values) or limit < 1:
            shapes = f"features {values.shape} and boxes {corners.shape}"
            counted = "" if count is None else f", {limit} of them,"
            raise EncoderError(f"{self.path}: {shapes}{counted} of image {image} are not regions")
        return Region(values[:limit], corners[:limit], size)

    def _corners(
        self, image: str, arrays: Mapping[str, Any], size: tuple[float, float] | None
    ) -> NDArray[np.float32] | None:
        unit, pixels = _pick(arrays, UNIT_BOXES), _pick(arrays, BOXES)
        if unit is None and pixels is None:
            return None
        corners = np.asarray(pixels if unit is None else unit, dtype=np.float32)[:, :4]
        if unit is None and size is not None:
            corners = np.divide(corners, np.array([*size, *size], np.float32), dtype=np.float32)
        if not (np.isfinite(corners).all() and corners.min() >= -0.01 and corners.max() <= 1.01):
            hint = "" if size is not None else "; in pixels they need image_w and image_h"
            raise EncoderError(f"{self.path}: boxes of image {image} lie outside it{hint}")
        return np.clip(corners, 0, 1)


class TsvFile(RegionFile):
    """Bottom-up attention's or LXMERT's tab-separated file, read line by line and then by position."""

    def entries(self) -> list[Entry]:
        found = []
        with self.path.open("rb") as handle:
            place = 0
            for line in handle:
                if line.strip():
                    row = self._columns(line, place)
                    rows, text = int(row["num_boxes"]), row["features"]
                    # Four characters of base64 are three bytes, less its padding; float32 has four bytes.
                    width = (len(text) // 4 * 3 - text[-2:].count(b"=")) // 4 // max(1, rows)
                    found.append(Entry(row["image"].decode(), place, rows, width))
                place += len(line)
        return found

    def read(self, entry: Entry) -> Region:
        with self.path.open("rb") as handle:
            handle.seek(entry.place)
            row = self._columns(handle.readline(), entry.place)
        shape = int(row["num_boxes"]), -1
        try:
            arrays = {key: np.frombuffer(_decoded(row[key]), "<f4").reshape(shape) for key in ("boxes", "features")}
        except ValueError as error:
            raise EncoderError(f"{self.path}: image {entry.image} is damaged: {error}") from error
        sizes = {"image_w": float(row["image_w"]), "image_h": float(row["image_h"])}
        return self.region(entry.image, {**arrays, **sizes})

    def _columns(self, line: bytes, place: int) -> dict[str, bytes]:
        """A line's columns by one set of names."""
        values = line.rstrip(b"\r\n").split(b"\t")
        names = TSV_COLUMNS.get(len(values))
        if names is None:
            known = " or ".join(map(str, TSV_COLUMNS))
            raise EncoderError(f"{self.path} at byte {place} has {len(values)} columns where region files have {known}")
        row = {name.replace("img_", "image_"): value for name, value in zip(names, values, strict=True)}
        try:
            int(row["num_boxes"]), float(row["image_w"]), float(row["image_h"])
            _decoded(row["boxes"])
        except (ValueError, binascii.Error) as error:
            raise EncoderError(f"{self.path} at byte {place} is no line of region features: {error}") from error
        return {**row, "image": row["image_id"]}


class ArrayFile(RegionFile):
    """One image's arrays: `.npz`, `.npy` (features alone, or a grid of them), `.safetensors`."""

    def entries(self) -> list[Entry]:
        features = self.read(Entry(self.path.stem, 0, 0, 0)).features
        return [Entry(self.path.stem, 0, *features.shape)]

    def read(self, entry: Entry) -> Region:
        try:
            arrays = self._arrays()
        except (OSError, ValueError, KeyError, SafetensorError, EOFError) as error:
            raise EncoderError(f"cannot read region features {self.path}: {' '.join(str(error).split())}") from error
        return self.region(entry.image, arrays)

    def _arrays(self) -> Mapping[str, Any]:
        if self.path.suffix == ".safetensors":
            return load_safetensors(self.path.read_bytes())
        if self.path.suffix == ".npy":
            return {"features": np.load(self.path, allow_pickle=False)}
        with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as file:
            known = {*FEATURES, *BOXES, *UNIT_BOXES, *WIDTHS, *HEIGHTS, *COUNTS}
            return {name: file[name] for name in file.files if name in known} or dict.fromkeys(file.files)


def _decoded(text: bytes) -> bytes:
    return base64.b64decode(text, validate=True)


def _pick(arrays: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((arrays[name] for name in names if name in arrays and arrays[name] is not None), None)


def _size(arrays: Mapping[str, Any]) -> tuple[float, float] | None:
    """Width and height of the image in pixels."""
    sides = [_pick(arrays, names) for names in (WIDTHS, HEIGHTS)]
    if any(side is None for side in sides):
        return None
    width, height = (float(np.asarray(side).reshape(-1)[0]) for side in sides)
    return width, height


def _have(arrays: Mapping[str, Any], wanted: tuple[str, ...]) -> str:
    return f"it has {', '.join(sorted(arrays)) or 'nothing'}; features are looked for as {', '.join(wanted)}"


def _cells(rows: int, columns: int) -> NDArray[np.float32]:
    """Corners of the cells of a grid of features."""
    boxes = grid_boxes(rows, columns, num_prefix=0).numpy()
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def open_region_files(folder: Path) -> list[RegionFile]:
    """Every file of region features in a folder and the folders in it, by name."""
    found: list[RegionFile] = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or path.name.endswith("_info.npy"):
            continue  # `*_info.npy` beside Pythia's features are pickled
        if re.search(r"\.tsv(\.[0-9]+)?$", path.name):
            found.append(TsvFile(path))
        elif path.suffix in (".npz", ".npy", ".safetensors"):
            found.append(ArrayFile(path))
        elif path.suffix in (".h5", ".hdf5"):
            from encoders.region_hdf5 import Hdf5File

            found.append(Hdf5File(path))
    return found
