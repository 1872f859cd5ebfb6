"""What happens to an image before an encoder sees it, described as data: colour mode, resize, crop, scale,
normalise.

The description comes from the library's own account of the checkpoint (`from_timm`, `from_open_clip`,
`from_hf`) and gives that library's pixels exactly, so each library's conventions of rounding, centring and
arithmetic are part of it. Handed a decoded PIL image, hands on a `3 h w` tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from encoders.errors import EncoderError, nearest

INTERPOLATIONS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocess:
    """One encoder's preprocessing. Equal descriptions give equal pixels, so encoders that share one share its
    result.

    Attributes:
        resize: `exact` to `size`; `shortest` edge to size[0], the other truncated (torchvision's and
            transformers' rule); `cover` and `contain`: aspect kept, so that the image covers or fits in
            `size`, edges rounded (timm's rule).
        size: height and width in pixels that `resize` aims at.
        interpolation: a PIL filter, by name.
        crop: height and width cut from (or padded around) the centre; None keeps what `resize` gives.
        centring: how odd margins are split: torchvision rounds half to even, transformers rounds down.
        fill: RGB of padding.
        scale: what a pixel level of 0-255 is multiplied by; None leaves it.
        arithmetic: `float32` divides by 255 and normalises in float32 (torchvision); `float64` multiplies by
            `scale` in float64, then normalises in float32 (transformers). They differ in the last bit.
        convert: whether the colour mode is changed before or after resizing; seen in palette images only.
    """

    resize: Literal["exact", "shortest", "cover", "contain", "none"]
    size: tuple[int, int]
    interpolation: str
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: Literal["RGB"] = "RGB"
    centring: Literal["round", "floor"] = "round"
    fill: tuple[int, int, int] = (0, 0, 0)
    scale: float | None = 1 / 255
    arithmetic: Literal["float32", "float64"] = "float32"
    convert: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            hint = nearest(self.interpolation, INTERPOLATIONS)
            raise EncoderError(f"interpolation {self.interpolation!r} in the preprocessing description: {hint}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise EncoderError(f"mean {self.mean} and std {self.std} must have three values, std none that is zero")

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of what the encoder gets.

        Raises:
            EncoderError: the size depends on the image, so that images cannot share a batch.
        """
        if self.crop is not None:
            return self.crop
        if self.resize != "exact":
            raise EncoderError(f"preprocessing with resize {self.resize!r} and no crop has no fixed size")
        return self.size

    def describe(self) -> dict[str, Any]:
        """The whole description as JSON values; part of the fingerprint."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        if self.convert == "first" and image.mode != self.mode:
            image = image.convert(self.mode)
        image = self._resized(image)
        if self.crop is not None:
            image = self._cropped(image, self.crop)
        if image.mode != self.mode:
            image = image.convert(self.mode)
        pixels = np.asarray(image)
        planes = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        for channel in range(3):
            np.take(self._levels[channel], pixels[:, :, channel], out=planes[channel])
        return torch.from_numpy(planes)

    @cached_property
    def _levels(self) -> NDArray[np.float32]:
        """Each of the 256 levels' value per channel: the arithmetic is per pixel, so a table is exact."""
        mean, std = (np.array(values, dtype=np.float32)[:, None] for values in (self.mean, self.std))
        if self.arithmetic == "float32":
            levels = np.arange(256, dtype=np.float32) / np.float32(255)
        else:
            scale = 1.0 if self.scale is None else self.scale
            levels = (np.arange(256, dtype=np.float64) * scale).astype(np.float32)
        return np.asarray((levels[None] - mean) / std, dtype=np.float32)

    def _resized(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.resize == "none":
            return image
        if self.resize == "exact":
            new_height, new_width = self.size
        elif self.resize == "shortest":
            edge, short, long = self.size[0], min(width, height), max(width, height)
            longer = int(edge * long / short)
            new_height, new_width = (longer, edge) if width <= height else (edge, longer)
        else:
            ratios = height / self.size[0], width / self.size[1]
            ratio = min(ratios) if self.resize == "cover" else max(ratios)
            new_height, new_width = round(height / ratio), round(width / ratio)
        if (new_width, new_height) == (width, height):
            return image
        return image.resize((new_width, new_height), INTERPOLATIONS[self.interpolation])

    def _cropped(self, image: Image.Image, crop: tuple[int, int]) -> Image.Image:
        for axis in (0, 1):
            missing = crop[1 - axis] - image.size[axis]
            if missing > 0:
                before = missing // 2 if self.centring == "round" else math.ceil(missing / 2)
                image = self._padded(image, axis, before, crop[1 - axis])
        margins = image.size[0] - crop[1], image.size[1] - crop[0]
        left, top = (round(m / 2.0) if self.centring == "round" else m // 2 for m in margins)
        return image.crop((left, top, left + crop[1], top + crop[0]))

    def _padded(self, image: Image.Image, axis: int, before: int, length: int) -> Image.Image:
        size = (length, image.size[1]) if axis == 0 else (image.size[0], length)
        fill = self.fill if image.mode == "RGB" else 0
        canvas = Image.new(image.mode, size, fill)
        if image.mode == "P":
            canvas.putpalette(image.getpalette() or [])
        canvas.paste(image, (before, 0) if axis == 0 else (0, before))
        return canvas


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


def from_hf(config: Mapping[str, Any]) -> Preprocess:
    """From an image processor's `to_dict()`; gives the pixels of transformers' PIL image processors.

    Raises:
        EncoderError: the description asks for something that is not covered (padding, sizes that vary).
    """
    name = str(config.get("image_processor_type") or "image processor")
    filters = {int(value): key for key, value in INTERPOLATIONS.items()}
    size, crop = _plain_size(config.get("size")), _plain_size(config.get("crop_size"))
    normalise, do_crop = bool(config.get("do_normalize", True)), bool(config.get("do_center_crop"))
    edge, square = size.get("shortest_edge"), (size.get("height"), size.get("width"))
    target = (edge, edge) if edge else square
    if config.get("do_pad") or size.get("longest_edge") or (config.get("do_resize", True) and None in target):
        raise EncoderError(f"{name} with size {size} and padding {config.get('do_pad')} gives images no one fixed size")
    base = Preprocess(
        resize="none" if not config.get("do_resize", True) else "shortest" if edge else "exact",
        size=(int(target[0] or 0), int(target[1] or 0)),
        interpolation=filters[int(config.get("resample", Image.Resampling.BILINEAR))],
        crop=(int(crop["height"]), int(crop["width"])) if do_crop else None,
        mean=tuple(float(v) for v in config["image_mean"]) if normalise else (0.0, 0.0, 0.0),
        std=tuple(float(v) for v in config["image_std"]) if normalise else (1.0, 1.0, 1.0),
        centring="floor",
        scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else None,
        arithmetic="float64",
    )
    if name.startswith("ConvNext") and edge and base.resize == "shortest":
        if edge >= 384:
            return replace(base, resize="exact")
        inner = int(edge / float(config.get("crop_pct", 224 / 256)))
        return replace(base, size=(inner, inner), crop=(int(edge), int(edge)))
    return base


def _plain_size(size: Any) -> dict[str, int]:
    """transformers writes sizes as a dict, an integer in old files, or an object; absent keys may be None."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {key: int(value) for key, value in dict(size).items() if value is not None}
