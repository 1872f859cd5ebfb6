"""Shapes of what an encoder returns: prefix tokens apart from a grid, the grid pooled, and all laid out in
one order.

Handed maps or sequences as the libraries return them; hands on `TokenGrid` and flat tokens, prefix first,
then the grid row by row from the top left. Boxes say where each token looks.
"""

from __future__ import annotations

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


def grid_boxes(rows: int, columns: int, *, num_prefix: int) -> Float[Tensor, "n 4"]:
    """Where each token looks, as centre x, centre y, width, height in 0-1; the whole image for a prefix."""
    y = (torch.arange(rows, dtype=torch.float32) + 0.5) / rows
    x = (torch.arange(columns, dtype=torch.float32) + 0.5) / columns
    centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
    size = torch.tensor([1 / columns, 1 / rows]).expand(rows * columns, 2)
    cells = torch.cat([torch.stack([centre_x.flatten(), centre_y.flatten()], dim=1), size], dim=1)
    whole = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(num_prefix, 4)
    return torch.cat([whole, cells])
