"""The contract of an encoder, and the one class that wraps a library's frozen module into it.

A backend hands over the module, a function from pixels to a `TokenGrid`, the preprocessing and what defines
the architecture; `ModuleEncoder` adds pooling, precision, boxes and the fingerprint. Other packages may
subclass `Encoder` directly.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from encoders.errors import EncoderError
from encoders.pooling import TokenGrid, grid_boxes, pool_grid
from encoders.preprocess import Preprocess
from encoders.spec import EncoderSpec

EXTRACTION_VERSION = 1
"""Raised only when the same encoder and settings would give other values; part of every fingerprint."""

Forward = Callable[[Tensor], TokenGrid]


class Encoder(ABC):
    """A frozen vision encoder.

    Attributes:
        alias: the name that runs and reports use.
        name: what it is, without alias and options, such as `timm:vit_small_patch16_224`; no machine's paths.
        width: D, values per token.
        grid: rows and columns of grid tokens, after pooling.
        num_prefix: class and register tokens, which come before the grid.
        num_params: parameters of the image tower.
        dtype: `fp16`, `fp32` or `bf16`, how features are stored.
        preprocess: PIL image to pixels.
        fingerprint: SHA-256 in hex over everything that decides the values of the features.
    """

    alias: str
    name: str
    width: int
    grid: tuple[int, int]
    num_prefix: int
    num_params: int
    dtype: str
    preprocess: Preprocess
    fingerprint: str

    @abstractmethod
    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Preprocessed images to float32 tokens on the encoder's device: prefix first, then the grid row by
        row."""

    @property
    def num_tokens(self) -> int:
        return self.num_prefix + self.grid[0] * self.grid[1]

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """Where each token looks: centre x, centre y, width, height in 0-1; the whole image for a prefix."""
        return grid_boxes(*self.grid, num_prefix=self.num_prefix)


class ModuleEncoder(Encoder):
    """A library's module, frozen.

    Args:
        spec: how the user named it.
        module: the image tower; its state dict is what the fingerprint covers.
        forward: pixels to tokens with their layout, at the layer that the spec asks for.
        architecture: what beside the weights decides the values (such as the number of heads), as JSON
            values.

    Raises:
        EncoderError: the layer does not exist, or the grid is smaller than `pool`.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        *,
        module: nn.Module,
        forward: Forward,
        preprocess: Preprocess,
        architecture: Mapping[str, Any],
        device: str,
    ) -> None:
        settings = spec.settings()
        self.alias = spec.alias
        self.name = f"{spec.backend}:{spec.local.resolve().name if spec.local else spec.name}"
        self.dtype = settings.dtype
        self.preprocess = preprocess
        self._pool = settings.pool
        self._device = torch.device(device)
        self._module = module.eval().requires_grad_(False).to(self._device)
        self._forward = forward
        probe = self._probe(spec)
        self.width = probe.grid.shape[3]
        self.grid = (probe.grid.shape[1], probe.grid.shape[2])
        self.num_prefix = probe.prefix.shape[1]
        self.num_params = sum(parameter.numel() for parameter in module.parameters())
        self.fingerprint = _fingerprint(
            module,
            {
                "extraction_version": EXTRACTION_VERSION,
                "architecture": dict(architecture),
                "preprocess": preprocess.describe(),
                "layer": settings.layer,
                "pool": settings.pool,
                "dtype": settings.dtype,
            },
        )

    @torch.no_grad()
    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        images = images.to(self._device)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.dtype == "bf16"):
            raw = self._forward(images)
        return pool_grid(TokenGrid(raw.prefix.float(), raw.grid.float()), self._pool).flat()

    @torch.no_grad()
    def _probe(self, spec: EncoderSpec) -> TokenGrid:
        """One black image through the model: the library itself says which layers and shapes there are."""
        height, width = self.preprocess.output
        try:
            raw = self._forward(torch.zeros(1, 3, height, width, device=self._device))
        except (AssertionError, IndexError, ValueError, RuntimeError) as error:
            raise EncoderError(f"encoder {spec} fails on a {height}x{width} image: {one_line(error)}") from error
        rows, columns = raw.grid.shape[1:3]
        if self._pool is not None and (self._pool[0] > rows or self._pool[1] > columns):
            wanted = "x".join(map(str, self._pool))
            raise EncoderError(f"pool={wanted} in encoder {spec} is larger than its grid, which is {rows}x{columns}")
        return pool_grid(raw, self._pool)


def _fingerprint(module: nn.Module, settings: Mapping[str, Any]) -> str:
    """SHA-256 over the settings and every tensor's name, type, shape and bytes, in order of names."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def one_line(error: BaseException, *, longest: int = 300) -> str:
    """An exception of a library as part of one clear line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= longest else f"{words[:longest]}…"
