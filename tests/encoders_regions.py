"""Region features in the forms in which they are passed around, written by their formats' own descriptions.

Handed a path; writes three images' regions, the same in every form: image N has N regions of width 8.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

SIZES = {1: (640, 480), 2: (500, 375), 3: (300, 200)}
"""Image id -> width and height in pixels."""


def features(image: int) -> NDArray[np.float32]:
    return np.arange(8 * image, dtype=np.float32).reshape(image, 8) + 100 * image


def corners(image: int) -> NDArray[np.float32]:
    """Left, top, right, bottom in pixels: region k spans the k-th to the (k+2)-th quarter, as far as there are."""
    width, height = SIZES[image]
    quarters = np.array([[k, k, k + 2, k + 2] for k in range(image)], dtype=np.float32) / 4
    return np.clip(quarters, 0, 1) * np.array([width, height, width, height], dtype=np.float32)


def boxes(image: int) -> NDArray[np.float32]:
    """Centre x, centre y, width, height in 0-1, by hand: region 0 is .25 .25 .5 .5, region 2 is .75 .75 .5 .5."""
    return np.array([[(k + 1) / 4, (k + 1) / 4, 0.5, 0.5] for k in range(image)], dtype=np.float32)


def _text(array: NDArray[np.float32]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def butd_tsv(path: Path) -> None:
    """image_id, image_w, image_h, num_boxes, boxes, features; no header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [[i, *SIZES[i], i, _text(corners(i)), _text(features(i))] for i in SIZES]
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def lxmert_tsv(path: Path) -> None:
    """img_id, img_h, img_w, objects and attributes with confidences, num_boxes, boxes, features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for image, (width, height) in SIZES.items():
        extra = [_text(np.ones(image, np.float32))] * 4
        rows.append(
            [f"COCO_val2014_{image:012d}", height, width, *extra, image, _text(corners(image)), _text(features(image))]
        )
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def uniter_npz(folder: Path) -> None:
    """norm_bb: x1 y1 x2 y2 w h in 0-1, features in fp16, conf, soft_labels."""
    folder.mkdir(parents=True)
    for image, (width, height) in SIZES.items():
        unit = corners(image) / np.array([width, height, width, height], np.float32)
        seven = np.concatenate([unit, unit[:, 2:] - unit[:, :2]], axis=1).astype(np.float16)
        more = {"conf": np.ones(image), "soft_labels": np.zeros((image, 5))}
        np.savez_compressed(
            folder / f"coco_val2014_{image:012d}.npz",
            norm_bb=seven,
            features=features(image).astype(np.float16),
            **more,
        )


def torch_npz(folder: Path) -> None:
    """x, bbox, num_bbox, image_h, image_w, and a pickled info that must not be touched."""
    folder.mkdir(parents=True)
    for image, (width, height) in SIZES.items():
        info = np.array({"image_id": image}, dtype=object)
        sizes = {"num_bbox": image, "image_h": height, "image_w": width, "info": info}
        np.savez_compressed(folder / f"{image}.npz", x=features(image), bbox=corners(image), **sizes)


def one_safetensors_each(folder: Path) -> None:
    folder.mkdir(parents=True)
    for image, (width, height) in SIZES.items():
        sizes = {"image_w": np.array([width]), "image_h": np.array([height])}
        save_file({"features": features(image), "boxes": corners(image), **sizes}, folder / f"{image}.safetensors")


def hdf5_groups(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for image, (width, height) in SIZES.items():
            group = file.create_group(str(image))
            group["features"], group["boxes"] = features(image), corners(image)
            group["img_w"], group["img_h"] = width, height


def hdf5_stacked(path: Path) -> None:
    """Arrays over images, short ones filled with zeros, as bottom-up attention's HDF5 has them, with ids."""
    path.parent.mkdir(parents=True)
    stacked, places = np.zeros((3, 5, 8), np.float32), np.zeros((3, 5, 6), np.float32)
    for row, (image, (width, height)) in enumerate(SIZES.items()):
        stacked[row, :image] = features(image)
        places[row, :image, :4] = corners(image) / np.array([width, height, width, height], np.float32)
    with h5py.File(path, "w") as file:
        file["image_features"], file["spatial_features"], file["num_boxes"] = stacked, places, [1, 2, 3]
        file["ids"] = list(SIZES)


def gqa_objects(folder: Path) -> None:
    """gqa_objects_info.json says file, row, count and size of each image; the rest of a row is filling."""
    folder.mkdir(parents=True)
    info = {}
    for number, image in enumerate(SIZES):
        width, height = SIZES[image]
        info[str(image)] = {"width": width, "height": height, "objectsNum": image, "idx": 1, "file": number % 2}
    info["3"]["idx"] = 0
    for number, images in ((0, {1: 1, 0: 3}), (1, {1: 2})):
        stacked, places = np.full((2, 4, 8), 7, np.float32), np.full((2, 4, 4), 9, np.float32)
        for row, image in images.items():
            stacked[row, :image], places[row, :image] = features(image), corners(image)
        with h5py.File(folder / f"gqa_objects_{number}.h5", "w") as file:
            file["features"], file["bboxes"] = stacked, places
    (folder / "gqa_objects_info.json").write_text(json.dumps(info))
