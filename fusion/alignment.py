"""Grid alignment: from the tokens of any encoder to the cells of one common grid.

Handed the boxes of an encoder's tokens, hands on a matrix that averages them into cells, and which cells any
token reaches. Everything is told from the boxes, so unequal grids, pooled grids and detected regions are
aligned by the same code. Cell 0 is the whole image: the average of the tokens that saw all of it (prefix
tokens). Such a token fills the other cells only where an encoder has no other. The ways of aligning are named
in `fusion.ALIGNMENTS`; each returns, for every cell and token, a weight that need not be normalised.
"""

from collections.abc import Callable
from importlib import import_module

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusion import ALIGNMENTS
from fusion.errors import FusionError, choices

Align = Callable[[Float[Tensor, "b n 4"], Bool[Tensor, "b n"], Float[Tensor, "m 4"]], Float[Tensor, "b m n"]]

EDGE = 1e-4
"""Overlaps below this share of a box's side are rounding, not overlap."""


def alignment(name: str) -> Align:
    """Returns the alignment of that name.

    Raises:
        FusionError: there is none.
    """
    if name not in ALIGNMENTS:
        raise FusionError(f"unknown fusion.align {name!r}; {choices(name, ALIGNMENTS)}")
    module, _, attribute = ALIGNMENTS[name].partition(":")
    found: Align = getattr(import_module(module), attribute)
    return found


def grid_boxes(grid: tuple[int, int]) -> Float[Tensor, "m 4"]:
    """Returns cx cy w h of each cell of a grid of (rows, columns), row by row."""
    rows, columns = grid
    y, x = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij"
    )
    sizes = torch.tensor([1 / columns, 1 / rows]).expand(rows * columns, 2)
    return torch.cat([x.reshape(-1, 1), y.reshape(-1, 1), sizes], dim=1)


def sees_everything(boxes: Float[Tensor, "b n 4"]) -> Bool[Tensor, "b n"]:
    """Returns which tokens saw the whole image: prefix tokens, and the only token of a 1x1 grid."""
    whole = boxes.new_tensor([0.5, 0.5, 1.0, 1.0])
    return ((boxes - whole).abs() < EDGE).all(dim=-1)


def aligner(
    boxes: Float[Tensor, "b n 4"], valid: Bool[Tensor, "b n"], *, cells: Float[Tensor, "m 4"], align: Align
) -> tuple[Float[Tensor, "b c n"], Bool[Tensor, "b c"]]:
    """Returns the averaging matrix of the whole image and the cells (c = 1 + m), and which of them are reached.

    Rows of cells that are reached sum to 1, the others are 0; columns of tokens that are not valid are 0.
    """
    boxes = boxes.float()
    whole = sees_everything(boxes) & valid
    local = valid & ~whole
    local = torch.where(local.any(dim=1, keepdim=True), local, valid)
    weights = align(boxes, local, cells)
    weights = torch.cat([whole[:, None].to(weights.dtype), weights], dim=1)
    total = weights.sum(dim=-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1), total[..., 0] > 0


def overlap(boxes: Float[Tensor, "b n 4"], cells: Float[Tensor, "m 4"]) -> Float[Tensor, "b m n"]:
    """Returns the area that each cell shares with each token's box; 0 for what is only rounding."""
    sides = []
    for axis in (0, 1):
        centre, size = boxes[:, None, :, axis], boxes[:, None, :, axis + 2]
        cell, side = cells[None, :, None, axis], cells[None, :, None, axis + 2]
        low = torch.maximum(centre - size / 2, cell - side / 2)
        high = torch.minimum(centre + size / 2, cell + side / 2)
        shared = high - low
        sides.append(shared.masked_fill(shared <= EDGE * torch.minimum(size, side), 0))
    return sides[0] * sides[1]


def area(
    boxes: Float[Tensor, "b n 4"], valid: Bool[Tensor, "b n"], cells: Float[Tensor, "m 4"]
) -> Float[Tensor, "b m n"]:
    """Averages by shared area: exact pooling for whole multiples (`adaptive_avg_pool2d`)."""
    return overlap(boxes, cells) * valid[:, None]


def bilinear(
    boxes: Float[Tensor, "b n 4"], valid: Bool[Tensor, "b n"], cells: Float[Tensor, "m 4"]
) -> Float[Tensor, "b m n"]:
    """Interpolates at each cell's centre, as `interpolate(mode="bilinear", align_corners=False)` does on grids.

    A token's influence falls off linearly to zero at a distance of its own size. Centres beyond the outermost
    tokens are moved to them first, as on a grid's border.
    """
    weights = valid[:, None].to(boxes.dtype)
    for axis in (0, 1):
        centre, size = boxes[..., axis], boxes[..., axis + 2]
        low = centre.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
        high = centre.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True)
        at = torch.minimum(torch.maximum(cells[None, :, axis], low), high)
        distance = (at[:, :, None] - centre[:, None]).abs()
        weights = weights * (1 - distance / size[:, None].clamp_min(EDGE)).clamp_min(0)
    return weights.masked_fill(~valid[:, None], 0)


def nearest(
    boxes: Float[Tensor, "b n 4"], valid: Bool[Tensor, "b n"], cells: Float[Tensor, "m 4"]
) -> Float[Tensor, "b m n"]:
    """Takes the tokens whose centre is nearest to the cell's (as `interpolate(mode="nearest-exact")`)."""
    distance = (boxes[:, None, :, :2] - cells[None, :, None, :2]).square().sum(dim=-1)
    distance = distance.masked_fill(~valid[:, None], torch.inf)
    closest = distance <= distance.amin(dim=-1, keepdim=True) + EDGE**2
    return (closest & valid[:, None]).to(boxes.dtype)
