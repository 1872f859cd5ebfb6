"""`channel`: grids aligned, channels joined and projected, then one trunk over text and the joined tokens.

As in Eagle (Shi et al. 2024). The projection of joined channels is a sum of one projection an encoder; it is
kept as these, so that no order of the encoders is built in. Prefix tokens are joined in a cell of their own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fusion.cells import CommonGrid
from fusion.config import FusionConfig
from fusion.joint import fuse, normalised
from fusion.operators import Attention, FusionOperator, Stream
from fusion.seeding import seeded
from fusion.transformer import Trunk
from fusion.trunk import TextTrunk, initialise_blocks, initialise_norm
from fusion.types import Encoded, EncoderWeight, coalition_name


class Channel(FusionOperator):
    """Joins the encoders along the channels.

    The trunk attends to joined tokens, whose encoders attention cannot tell apart: its mass is that of the
    coalition. The weight of an encoder is its share of the length of what is summed.
    """

    absent: ClassVar[str] = "its channels are zero in every cell; a cell that no encoder reaches is no token"

    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], config: FusionConfig, seed: int) -> None:
        super().__init__(trunk, aliases=aliases, config=config, seed=seed)
        self.grid = CommonGrid(config)
        self.projections = nn.ModuleDict()
        for alias in aliases:
            with seeded(seed, "channel", alias):
                projection = nn.Linear(config.width, config.width, bias=False)
                nn.init.normal_(projection.weight, std=config.width**-0.5)
            self.projections[f"of_{alias}"] = projection
        self.bias = nn.Parameter(torch.zeros(config.width))
        self.norm = nn.LayerNorm(config.width, eps=trunk.shape.eps)
        self.trunk = Trunk(trunk.shape, dropout=config.dropout)
        initialise_norm(self.norm, trunk)
        initialise_blocks(self.trunk, trunk)

    def describe(self) -> dict[str, object]:
        """Returns grid and alignment."""
        return self.grid.describe()

    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Returns the fused stream; see `FusionOperator.forward`."""
        parts: dict[str, Float[Tensor, "b m w"]] = {}
        reached = None
        for alias, stream in visual.items():
            cells = self.grid(stream)
            parts[alias] = self.projections[f"of_{alias}"](cells.states)
            reached = cells.reached if reached is None else reached | cells.reached
        if reached is None:
            joined: dict[str, Stream] = {}
        else:
            states = self.norm(torch.stack(list(parts.values())).sum(dim=0) + self.bias)
            joined = {coalition_name(tuple(visual)): Stream(states, reached)}
        fused = fuse(self.trunk, lead, visual=joined, attention=attention)
        if attention == "none":
            return fused
        lengths = [part.detach().float().norm(dim=-1).sum(dim=1) for part in parts.values()]
        values = torch.stack(lengths, dim=1) if lengths else lead.states.new_zeros(len(lead.states), 0)
        return replace(fused, weight=EncoderWeight(normalised(values), tuple(visual), "norm"))
