"""What happens to an image before an encoder sees it, described as data: colour mode, resize, crop, scale,
normalise.

The description comes from the library's own account of the checkpoint (`from_timm`, `from_open_clip`,
`from_hf`) and gives that library's pixels exactly, so each library's conventions of rounding, centring and
arithmetic are part of it. Handed a decoded PIL image, hands on a `3 h w` tensor. `encoders.described` reads the
libraries' accounts.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from encoders.errors import EncoderError, nearest

INTERPOLATIONS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
ANTIALIASED = ("bilinear", "bicubic")
"""Filters that torch has for float values."""


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
            `scale` in float64, then normalises in float32 (transformers). They differ in the last bit. `tensor`
            scales first, and resizes the float values with torch's antialiased filter (transformers' DINOv3).
        convert: whether the colour mode is changed before or after resizing; seen in palette images only.
        transparency: `dropped` with the alpha channel, whose pixels show the colour that they have beneath it; or
            `white` shines through (transformers' processors with `do_convert_rgb`).
        view: 0 is the plain image; another number cuts `window` out of it and enlarges that to the same size.
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
    arithmetic: Literal["float32", "float64", "tensor"] = "float32"
    convert: Literal["first", "last"] = "first"
    transparency: Literal["dropped", "white"] = "dropped"
    view: int = 0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            hint = nearest(self.interpolation, INTERPOLATIONS)
            raise EncoderError(f"interpolation {self.interpolation!r} in the preprocessing description: {hint}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise EncoderError(f"mean {self.mean} and std {self.std} must have three values, std none that is zero")
        if self.arithmetic == "tensor" and (
            self.resize != "exact" or self.crop is not None or self.interpolation not in ANTIALIASED
        ):
            asked = f"resize {self.resize!r}, crop {self.crop}, interpolation {self.interpolation!r}"
            raise EncoderError(f"preprocessing that resizes float values with {asked} is not described as data here")

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

    @property
    def window(self) -> tuple[float, float, float, float]:
        """What the view sees of the plain image: left, top, width, height in 0-1.

        Between half and nine tenths of the area, of the image's own aspect, drawn from the view's number: the same
        for all images, so that a view's boxes are too. Nothing is mirrored, which would falsify words and sides.
        """
        if self.view == 0:
            return 0.0, 0.0, 1.0, 1.0
        draw = random.Random(self.view)
        side = math.sqrt(draw.uniform(0.5, 0.9))
        return draw.uniform(0, 1 - side), draw.uniform(0, 1 - side), side, side

    def describe(self) -> dict[str, Any]:
        """The whole description as JSON values, but for transparency that is dropped; part of the fingerprint."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if self.transparency == "dropped":
            del values["transparency"]
        return values

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        if self.transparency == "white":
            image = _on_white(image)
        if self.convert == "first" and image.mode != self.mode:
            image = image.convert(self.mode)
        if self.arithmetic == "tensor":
            return self._from_floats(image)
        image = self._resized(image)
        if self.crop is not None:
            image = self._cropped(image, self.crop)
        if image.mode != self.mode:
            image = image.convert(self.mode)
        if self.view != 0:
            left, top, width, height = self._window(image.size[1], image.size[0])
            box = (left, top, left + width, top + height)
            image = image.resize(image.size, INTERPOLATIONS[self.interpolation], box=box)
        pixels = np.asarray(image)
        planes = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        for channel in range(3):
            np.take(self._levels[channel], pixels[:, :, channel], out=planes[channel])
        return torch.from_numpy(planes)

    def _from_floats(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        scale = 1.0 if self.scale is None else self.scale
        values = torch.from_numpy(np.array(image.convert(self.mode))).permute(2, 0, 1).contiguous() * scale
        values = self._enlarged(values, self.size)
        if self.view != 0:
            left, top, width, height = (round(edge) for edge in self._window(*values.shape[1:]))
            values = self._enlarged(values[:, top : top + height, left : left + width], tuple(values.shape[1:]))
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        return (values - mean) / std

    def _enlarged(self, values: Float[Tensor, "3 h w"], size: tuple[int, ...]) -> Float[Tensor, "3 rows columns"]:
        if tuple(values.shape[1:]) == size:
            return values
        mode = self.interpolation
        return functional.interpolate(values[None], size=size, mode=mode, align_corners=False, antialias=True)[0]

    def _window(self, height: int, width: int) -> tuple[float, float, float, float]:
        left, top, across, down = self.window
        return left * width, top * height, across * width, down * height

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
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and new_width * new_height > 2 * limit:  # where PIL refuses to decode, too
            raise EncoderError(
                f"its {width}x{height} pixels would become {new_width}x{new_height} before they are cut, more than "
                f"{2 * limit}"
            )
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
        bands = len(image.getbands())
        fill = self.fill if image.mode == "RGB" else self.fill[:1] * bands  # open_clip pads grey, and converts later
        canvas = Image.new(image.mode, size, fill if bands > 1 else fill[0])
        if image.mode == "P":
            canvas.putpalette(image.getpalette() or [])
        canvas.paste(image, (before, 0) if axis == 0 else (0, before))
        return canvas


def _on_white(image: Image.Image) -> Image.Image:
    """As transformers converts to RGB: whatever is transparent, by a channel or a colour of its own, on white."""
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
