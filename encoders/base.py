"""The contract of an encoder: what every part of the toolkit may ask of one.

Subclass `Encoder` where images are computed on, `FileEncoder` where features are looked up for image files.
`encoders.module` wraps a library's frozen module into the contract; docs/own_encoder.md walks through both.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from encoders.errors import EncoderError, nearest
from encoders.pooling import grid_boxes
from encoders.preprocess import Preprocess

EXTRACTION_VERSION = 1
"""Raised only when the same encoder and settings would give other values; part of every fingerprint."""


class Encoder(ABC):
    """A frozen vision encoder.

    Attributes:
        alias: the name that runs and reports use.
        name: what it is, without alias and options, such as `timm:vit_small_patch16_224`; no machine's paths.
        width: D, values per token.
        grid: rows and columns of grid tokens, after pooling.
        num_grids: how many grids follow one another: layers joined by tokens, else one.
        num_prefix: class and register tokens, which come before the grid.
        num_params: parameters of the image tower.
        dtype: `fp16`, `fp32` or `bf16`, how features are stored.
        preprocess: PIL image to pixels.
        fingerprint: SHA-256 in hex over everything that decides the values of the features: `identity()`, taken
            when the encoder was ready.
        views: how many deterministic views of an image are to be stored.
        code: digest of the Python file that the encoder came from, where it came from one, and the function in it.
        reads: whether it computes on pixels, or looks up image files (`FileEncoder`).
    """

    alias: str
    name: str
    width: int
    grid: tuple[int, int]
    num_grids: int = 1
    num_prefix: int
    num_params: int
    dtype: str
    preprocess: Preprocess
    fingerprint: str
    views: int = 1
    code: str | None = None
    reads: Literal["pixels", "files"] = "pixels"

    @abstractmethod
    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Preprocessed images to float32 tokens on the encoder's device: prefix first, then the grid row by
        row."""

    def weights(self) -> Mapping[str, Tensor]:
        """The live tensors that decide the values, by name: their bytes are part of the identity."""
        return {}

    def settings(self) -> Mapping[str, Any]:
        """What beside weights, preprocessing and precision decides the values (architecture, layer, pooling), as
        JSON values."""
        return {}

    def view(self, number: int) -> Encoder:
        """The encoder of one view: view 0 is this encoder; others see a crop of the image, and have their own
        fingerprint and boxes.

        Raises:
            EncoderError: the encoder has no such view.
        """
        if number != 0:
            raise EncoderError(f"encoder {self.alias} has no view {number}: its views are 0 to {self.views - 1}")
        return self

    def identity(self) -> str:
        """The fingerprint of the encoder as it is now: weights, preprocessing, settings, precision, code."""
        return fingerprint_of(self, weights=digest_of(self.weights()))

    @property
    def pass_key(self) -> str:
        """Encoders with one key can share a forward pass (`encoders.module.tokens_together`)."""
        return self.fingerprint

    @property
    def num_tokens(self) -> int:
        return self.num_prefix + self.num_grids * self.grid[0] * self.grid[1]

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """Where each token looks: centre x, centre y, width, height in 0-1 of what view 0 sees; the whole image
        for a prefix."""
        boxes = grid_boxes(*self.grid, num_prefix=self.num_prefix)
        cells = boxes[self.num_prefix :]
        return torch.cat([boxes[: self.num_prefix], *[cells] * self.num_grids])


class Rows(NamedTuple):
    """Features of several images, of different lengths: rows of all, one after the other."""

    tokens: Float[Tensor, "rows d"]
    boxes: Float[Tensor, "rows 4"]
    lengths: Int[Tensor, " images"]


class FileEncoder(Encoder):
    """An encoder whose features were computed elsewhere, and are looked up for an image file.

    `grid` is (1, most rows of an image); entries may have fewer, and each has its own boxes.
    """

    reads = "files"

    @abstractmethod
    def images(self) -> list[str]:
        """The images that have features, as stems of their files."""

    @abstractmethod
    def rows(self, paths: Sequence[Path]) -> Rows:
        """The features of these image files, in order, float32.

        Raises:
            EncoderError: there are none for a file; it is named.
        """

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Refuses.

        Raises:
            EncoderError: always; pixels do not say which image they are of.
        """
        raise EncoderError(f"encoder {self.alias} looks features up by file: call rows(paths), not tokens(images)")


def fingerprint_of(encoder: Encoder, *, weights: str) -> str:
    """SHA-256 in hex over an encoder's description and the digest of its weights."""
    described = {
        "extraction_version": EXTRACTION_VERSION,
        "settings": dict(encoder.settings()),
        "preprocess": encoder.preprocess.describe(),
        "dtype": encoder.dtype,
        "code": encoder.code,
        "weights": weights,
    }
    return digest_json(described)


def digest_json(value: Mapping[str, Any]) -> str:
    """SHA-256 in hex over JSON values.

    Raises:
        TypeError: a value is none of JSON's, so that it might be written differently another time.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex over every tensor's name, type, shape and bytes, in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_device(device: str) -> None:
    """Refuses a device that torch does not have on this machine.

    Raises:
        EncoderError: it has none of this name; those that it has are named.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        count = torch.cuda.device_count()
        there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        why = one_line(error, longest=120)
        raise EncoderError(
            f"device {device!r} cannot be used on this machine ({why}); {nearest(device, there)}"
        ) from error


def one_line(error: BaseException, *, longest: int = 300) -> str:
    """An exception of a library as part of one clear line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= longest else f"{words[:longest]}…"
