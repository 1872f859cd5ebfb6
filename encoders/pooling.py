"""Shapes of what an encoder returns: prefix tokens apart from a grid, the grid pooled, and all laid out in
one order.

Handed maps or sequences as the libraries return them; hands on `TokenGrid` and flat tokens, prefix first,
then the grid row by row from the top left. Boxes say where each token looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


class TokenGrid(NamedTuple):
    """An encoder's tokens with their layout: prefix tokens (class, registers) may be none, p = 0."""

    prefix: Float[Tensor, "b p d"]
    grid: Float[Tensor, "b h w d"]

    def flat(self) -> Float[Tensor, "b n d"]:
        """Prefix tokens first, then the grid in row-major order; n = p + h w."""
        return torch.cat([self.prefix, rearrange(self.grid, "b h w d -> b (h w) d")], dim=1)


def from_map(features: Float[Tensor, "b c h w"]) -> TokenGrid:
    """A convolutional map: each cell a token, no prefix."""
    grid = rearrange(features, "b c h w -> b h w c")
    return TokenGrid(grid.new_empty(grid.shape[0], 0, grid.shape[3]), grid)


def from_sequence(tokens: Float[Tensor, "b n d"], *, num_prefix: int, rows: int, columns: int) -> TokenGrid:
    """A transformer's sequence: `num_prefix` tokens, then rows x columns of the grid."""
    assert tokens.shape[1] == num_prefix + rows * columns, (tokens.shape, num_prefix, rows, columns)
    grid = rearrange(tokens[:, num_prefix:], "b (h w) d -> b h w d", h=rows, w=columns)
    return TokenGrid(tokens[:, :num_prefix], grid)


def pool_grid(tokens: TokenGrid, size: tuple[int, int] | None) -> TokenGrid:
    """The grid averaged over `size` cells (adaptive average pooling: cells may overlap)."""
    if size is None or tuple(tokens.grid.shape[1:3]) == size:
        return tokens
    pooled = functional.adaptive_avg_pool2d(rearrange(tokens.grid, "b h w d -> b d h w"), size)
    return TokenGrid(tokens.prefix, rearrange(pooled, "b d h w -> b h w d"))


def grid_shape(count: int, *, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of `count` tokens of a `height` x `width` image, where one stride gives that count.

    The grid of a network with stride s has ceil(height / s) rows where it pads, and height // s where it does not.
    """
    for stride in range(1, max(height, width) + 1):
        for rows, columns in (
            (height // stride, width // stride),
            (math.ceil(height / stride), math.ceil(width / stride)),
        ):
            if rows * columns == count:
                return rows, columns
    return None


def join_width(layers: Sequence[TokenGrid]) -> TokenGrid:
    """Layers side by side: one token has the values of all.

    Raises:
        ValueError: their grids or prefixes differ.
    """
    if len({(layer.prefix.shape[1], *layer.grid.shape[1:3]) for layer in layers}) > 1:
        raise ValueError(f"join=width needs layers of one grid: {_shapes(layers)}; pool=HxW makes grids equal")
    return TokenGrid(torch.cat([layer.prefix for layer in layers], 2), torch.cat([layer.grid for layer in layers], 3))


def join_tokens(layers: Sequence[TokenGrid]) -> Float[Tensor, "b n d"]:
    """Layers one after the other: the prefixes of all, then the grids of all.

    Raises:
        ValueError: their widths or grids differ.
    """
    if len({layer.grid.shape[1:] for layer in layers}) > 1:
        raise ValueError(f"join=tokens needs layers of one width and grid: {_shapes(layers)}")
    grids = [rearrange(layer.grid, "b h w d -> b (h w) d") for layer in layers]
    return torch.cat([*(layer.prefix for layer in layers), *grids], dim=1)


def _shapes(layers: Sequence[TokenGrid]) -> str:
    sizes = [(layer.prefix.shape[1], *layer.grid.shape[1:]) for layer in layers]
    return ", ".join(f"{rows}x{columns} of width {width} after {prefix}" for prefix, rows, columns, width in sizes)


def grid_boxes(rows: int, columns: int, *, num_prefix: int) -> Float[Tensor, "n 4"]:
    """Where each token looks, as centre x, centre y, width, height in 0-1; the whole image for a prefix."""
    y = (torch.arange(rows, dtype=torch.float32) + 0.5) / rows
    x = (torch.arange(columns, dtype=torch.float32) + 0.5) / columns
    centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
    size = torch.tensor([1 / columns, 1 / rows]).expand(rows * columns, 2)
    cells = torch.cat([torch.stack([centre_x.flatten(), centre_y.flatten()], dim=1), size], dim=1)
    whole = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(num_prefix, 4)
    return torch.cat([whole, cells])


def view_boxes(boxes: Float[Tensor, "n 4"], window: tuple[float, float, float, float]) -> Float[Tensor, "n 4"]:
    """Boxes of a crop, as boxes of the image that it was cut from.

    Args:
        window: left, top, width and height of the crop, in 0-1 of the image.
    """
    left, top, width, height = window
    scale = torch.tensor([width, height, width, height])
    return boxes * scale + torch.tensor([left, top, 0.0, 0.0])
