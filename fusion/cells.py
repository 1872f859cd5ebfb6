"""Cells of a common grid, filled from each encoder's tokens by a named alignment.

Handed streams, hands on each encoder's aligned cells (cell 0 is the whole image) and which of them it reaches.
`channel` and `gated` differ in how they then mix the encoders.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion.alignment import aligner, alignment, grid_boxes
from fusion.config import FusionConfig
from fusion.operators import Stream

GRID = (7, 7)
ALIGN = "area"


class Cells(NamedTuple):
    """One encoder's tokens on the common grid; cells that it does not reach are 0."""

    states: Float[Tensor, "b m w"]
    reached: Bool[Tensor, "b m"]


class CommonGrid(nn.Module):
    """A grid of (rows, columns) and the alignment that fills it."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.grid = config.grid_size or GRID
        self.name = config.align or ALIGN
        self._align = alignment(self.name)
        self.register_buffer("boxes", grid_boxes(self.grid), persistent=False)

    def describe(self) -> dict[str, object]:
        """Returns grid and alignment, for the record."""
        return {"grid": list(self.grid), "align": self.name}

    def forward(self, stream: Stream) -> Cells:
        """Returns the stream on the grid."""
        assert stream.boxes is not None and isinstance(self.boxes, Tensor)
        weights, reached = aligner(stream.boxes, stream.valid, cells=self.boxes.float(), align=self._align)
        return Cells(torch.bmm(weights.to(stream.states.dtype), stream.states), reached)
