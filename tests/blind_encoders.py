"""Two encoders that each lack a sense: one sees no colours, one does not see where anything is.

Each shows a shipped encoder an altered picture: grey, or cut into patches that are shuffled, differently for every
picture. The tests name this file as a user names one of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from encoders import load_encoder as load_shipped
from encoders.base import Encoder
from encoders.spec import EncoderSpec

LUMINANCE = (0.299, 0.587, 0.114)
PATCHES = 4
"""Patches a side."""

Pixels = Float[Tensor, "b 3 h w"]


class Altered(Encoder):
    """A shipped encoder of altered pixels."""

    def __init__(self, alias: str, shipped: Encoder, alter: Callable[[Pixels], Pixels]) -> None:
        self._shipped, self._alter = shipped, alter
        self.alias, self.name = alias, f"{alter.__name__}:{shipped.name}"
        for same in ("width", "grid", "num_prefix", "num_params", "dtype", "preprocess"):
            setattr(self, same, getattr(shipped, same))
        self.fingerprint = self.identity()

    def tokens(self, images: Pixels) -> Float[Tensor, "b n d"]:
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.preprocess.mean, self.preprocess.std))
        return self._shipped.tokens((self._alter(images * std + mean) - mean) / std)

    def weights(self) -> Mapping[str, Tensor]:
        return self._shipped.weights()

    def settings(self) -> Mapping[str, Any]:
        return {**self._shipped.settings(), "altered": self._alter.__name__}


def grey(pixels: Pixels) -> Pixels:
    """Luminance alone."""
    return (pixels * torch.tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True).expand_as(pixels)


def shuffled(pixels: Pixels) -> Pixels:
    """Patches in an order that the picture itself decides, so that it is the same in every batch."""
    return torch.stack([_shuffled(image) for image in pixels])


def _shuffled(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    digest = hashlib.sha256((image * 255).round().byte().numpy().tobytes()).digest()
    order = torch.randperm(PATCHES**2, generator=torch.Generator().manual_seed(int.from_bytes(digest[:4], "big")))
    rows = [row.chunk(PATCHES, dim=2) for row in image.chunk(PATCHES, dim=1)]
    patches = [patch for row in rows for patch in row]
    mixed = [patches[place] for place in order]
    return torch.cat([torch.cat(mixed[k : k + PATCHES], dim=2) for k in range(0, PATCHES**2, PATCHES)], dim=1)


def colour_blind(spec: EncoderSpec, *, device: str) -> Encoder:
    """The shipped ViT, which tells shapes and places, on grey pictures."""
    return Altered(spec.alias, load_shipped("vit=demo:vit", device=device), grey)


def position_blind(spec: EncoderSpec, *, device: str) -> Encoder:
    """The shipped ConvNeXt, which tells colours, on shuffled patches."""
    return Altered(spec.alias, load_shipped("convnext=demo:convnext", device=device), shuffled)
