"""Preprocessing as the libraries describe it: timm's data config, open_clip's preprocess config, transformers'
image processors.

Handed those descriptions, hands on `Preprocess` objects that give the library's pixels exactly. Where an input
size is asked for, the description is changed as the library would change it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from encoders.errors import EncoderError
from encoders.preprocess import INTERPOLATIONS, Preprocess


def from_timm(config: Mapping[str, Any]) -> Preprocess:
    """From `timm.data.resolve_model_data_config`; the pixels of `timm.data.create_transform(**config)`."""
    height, width = int(config["input_size"][-2]), int(config["input_size"][-1])
    percent = float(config.get("crop_pct") or 0.875)
    size = math.floor(height / percent), math.floor(width / percent)
    mean = tuple(float(v) for v in config["mean"])
    base = Preprocess(
        resize="shortest" if size[0] == size[1] else "cover",
        size=size,
        interpolation=str(config["interpolation"]),
        crop=(height, width),
        mean=mean,
        std=tuple(float(v) for v in config["std"]),
    )
    if config.get("crop_mode") == "squash":
        return replace(base, resize="exact")
    if config.get("crop_mode") == "border":
        red, green, blue = (round(255 * v) for v in mean)
        return replace(base, resize="contain", fill=(red, green, blue))
    return base


def from_open_clip(config: Mapping[str, Any]) -> Preprocess:
    """From a model's `visual.preprocess_cfg`; the pixels of `open_clip.transform.image_transform_v2`."""
    size = config["size"]
    height, width = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    base = Preprocess(
        resize="shortest",
        size=(height, width),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        crop=(height, width),
        mean=tuple(float(v) for v in config["mean"]),
        std=tuple(float(v) for v in config["std"]),
        convert="last",
    )
    if config["resize_mode"] == "squash":
        return replace(base, resize="exact", crop=None)
    if config["resize_mode"] == "longest":
        fill = int(config.get("fill_color") or 0)
        return replace(base, resize="contain", fill=(fill, fill, fill))
    return base if height == width else replace(base, resize="cover", interpolation="bicubic")


def from_hf(config: Mapping[str, Any], *, size: tuple[int, int] | None = None) -> Preprocess:
    """From an image processor's `to_dict()`; gives the pixels of transformers' PIL image processors, and of
    DINOv3's, which works on float values.

    Args:
        size: height and width to give in place of the checkpoint's. A square one is what the processor gives when
            its own sizes are set so; transformers has no rule for others that keep the aspect, so those cover the
            size in the same proportion and are cut.

    Raises:
        EncoderError: the description asks for something that is not covered (padding, sizes that vary), or lacks a
            value that it needs.
    """
    name = str(config.get("image_processor_type") or "image processor")
    given, crop = _plain_size(config.get("size")), _plain_size(config.get("crop_size"))
    normalise, do_crop = bool(config.get("do_normalize", True)), bool(config.get("do_center_crop"))
    edge, square = given.get("shortest_edge"), (given.get("height"), given.get("width"))
    target = (edge, edge) if edge else square
    if config.get("do_pad") or given.get("longest_edge") or (config.get("do_resize", True) and None in target):
        pads = config.get("do_pad")
        raise EncoderError(f"{name} with size {given} and padding {pads} gives images no one fixed size")
    resizes, scales = bool(config.get("do_resize", True)), bool(config.get("do_rescale", True))
    resample = config.get("resample", Image.Resampling.BILINEAR)
    base = Preprocess(
        resize="none" if not resizes else "shortest" if edge else "exact",
        size=(int(target[0] or 0), int(target[1] or 0)),
        interpolation=_filter(name, Image.Resampling.BILINEAR if resample is None and not resizes else resample),
        crop=(int(crop["height"]), int(crop["width"])) if do_crop else None,
        mean=_channels(name, "image_mean", config) if normalise else (0.0, 0.0, 0.0),
        std=_channels(name, "image_std", config) if normalise else (1.0, 1.0, 1.0),
        centring="floor",
        scale=_number(name, "rescale_factor", config.get("rescale_factor", 1 / 255)) if scales else None,
        arithmetic="tensor" if name.startswith("DINOv3ViT") else "float64",
        transparency="white" if config.get("do_convert_rgb") else "dropped",
    )
    if name.startswith("Levit") and base.resize == "shortest":
        return _levit(base, size or base.size, crop=size or base.crop)
    if name.startswith("ConvNext") and base.resize == "shortest":
        return _convnext(base, size or base.size, fraction=float(config.get("crop_pct", 224 / 256)))
    return base if size is None else _resized(base, size)


def _filter(name: str, value: Any) -> str:
    """PIL's filter of this number. Raises EncoderError."""
    filters = {int(number): key for key, number in INTERPOLATIONS.items()}
    number = int(_number(name, "resample", value))
    if number not in filters:
        listed = ", ".join(f"{each} ({key})" for each, key in sorted(filters.items()))
        raise EncoderError(f"{name} with resample {value!r}, which is none of PIL's filters: {listed}")
    return filters[number]


def _channels(name: str, key: str, config: Mapping[str, Any]) -> tuple[float, ...]:
    """A value a channel; transformers takes one number for all three. Raises EncoderError."""
    value = config.get(key)
    if isinstance(value, (list, tuple)):
        return tuple(_number(name, key, each) for each in value)
    return (_number(name, key, value),) * 3


def _number(name: str, key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise EncoderError(f"{name} with {key} {value!r}, where a number is needed") from error


def _convnext(base: Preprocess, size: tuple[int, int], *, fraction: float) -> Preprocess:
    """transformers' ConvNeXt: from 384 pixels exact, below the shortest edge over `fraction`, and a centre crop."""
    if min(size) >= 384:
        return replace(base, resize="exact", size=size)
    inner = int(size[0] / fraction), int(size[1] / fraction)
    return replace(base, resize="shortest" if size[0] == size[1] else "cover", size=inner, crop=size)


def _levit(base: Preprocess, size: tuple[int, int], *, crop: tuple[int, int] | None) -> Preprocess:
    """transformers' LeViT: the shortest edge times 256 / 224."""
    inner = int(256 / 224 * size[0]), int(256 / 224 * size[1])
    return replace(base, resize="shortest" if size[0] == size[1] else "cover", size=inner, crop=crop)


def _resized(base: Preprocess, size: tuple[int, int]) -> Preprocess:
    """For another input size: an exact size is replaced; a shortest edge keeps its proportion to the crop."""
    if base.resize == "none":
        return replace(base, crop=size)
    if base.resize == "exact":
        return replace(base, size=size, crop=None if base.crop is None else size)
    if base.crop is None:
        return base
    inner = size[0] * base.size[0] // base.crop[0], size[1] * base.size[0] // base.crop[1]
    return replace(base, resize="shortest" if inner[0] == inner[1] else "cover", size=inner, crop=size)


def _plain_size(size: Any) -> dict[str, int]:
    """transformers writes sizes as a dict, an integer in old files, or an object; absent keys may be None."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {key: int(value) for key, value in dict(size).items() if value is not None}
