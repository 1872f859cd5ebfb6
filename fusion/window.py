"""`window`: the queries of a grid read the same region of every encoder's image; then one trunk over text and these.

As in Cambrian's spatial vision aggregator (Tong et al. 2024), but a query's region is told from the tokens'
boxes, so grids need not be multiples of one another: it reads the tokens that share area with its cell. Prefix
tokens saw everything, and every query reads them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from fusion.alignment import grid_boxes, overlap
from fusion.cells import GRID
from fusion.config import FusionConfig
from fusion.joint import fuse
from fusion.memory import indicator, reading_report, tokens_of
from fusion.operators import Attention, FusionOperator, Stream
from fusion.reading import Asked, Memory, Reader
from fusion.resampler import READS, without_encoders
from fusion.transformer import Trunk
from fusion.trunk import TextTrunk, initialise_blocks, initialise_norm
from fusion.types import Encoded, coalition_name


class Window(FusionOperator):
    """One query for each cell of a grid, over one softmax of all encoders' tokens in that place.

    Attention mass is the mean over the cells that read anything; its layers are the readings.
    """

    absent: ClassVar[str] = "its tokens are not among those read; a cell where nothing can be read is no token"

    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], config: FusionConfig, seed: int) -> None:
        super().__init__(trunk, aliases=aliases, config=config, seed=seed)
        self.grid, self.reads = config.grid_size or GRID, config.reads or READS
        self.register_buffer("boxes", grid_boxes(self.grid), persistent=False)
        self.reader = Reader(
            trunk.shape, num_queries=self.grid[0] * self.grid[1], reads=self.reads, dropout=config.dropout
        )
        self.trunk = Trunk(trunk.shape, dropout=config.dropout)
        initialise_norm(self.reader.output_norm, trunk)
        initialise_blocks(self.trunk, trunk)

    def describe(self) -> dict[str, object]:
        """Returns the grid of queries and how often they read."""
        return {"grid": list(self.grid), "reads": self.reads}

    def windows(self, visual: Mapping[str, Stream]) -> Bool[Tensor, "b m l"]:
        """Returns which tokens each cell's query may read."""
        assert isinstance(self.boxes, Tensor)
        parts = []
        for stream in visual.values():
            assert stream.boxes is not None
            shared = overlap(stream.boxes.float(), self.boxes.float())
            parts.append((shared > 0) & stream.valid[:, None])
        return torch.cat(parts, dim=2)

    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Returns the fused stream; see `FusionOperator.forward`."""
        if not visual:
            return without_encoders(self.trunk, lead, layers=self.reads, query="cells", attention=attention)
        states, valid, spans = tokens_of(visual)
        windows = self.windows(visual)
        there = windows.any(dim=2)
        asked = Asked(there, indicator(valid, spans)) if attention == "mass" else None
        cells, mass = self.reader(Memory(states, windows), asked=asked)
        read = {coalition_name(tuple(visual)): Stream(cells, there)}
        fused = fuse(self.trunk, lead, visual=read, attention="none")
        if mass is None:
            return fused
        report, weight = reading_report(mass, valid, spans, query="cells")
        return replace(fused, attention=report, weight=weight)
