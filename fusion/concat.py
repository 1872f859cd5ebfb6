"""`concat`: one stream of CLS, text and the tokens of all encoders present, through one trunk.

As in VisualBERT (Li et al. 2019). Handed streams, hands on the states after the last layer, pooled at CLS. An
absent encoder's tokens are not in the sequence: they cost nothing and have no influence.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from fusion.operators import Attention, FusionOperator, Stream
from fusion.transformer import Trunk
from fusion.trunk import TextTrunk, initialise_blocks
from fusion.types import AttentionMass, Encoded


class Concat(FusionOperator):
    """Joins the streams along the sequence. "Absent" means: not in the sequence."""

    attentions: ClassVar[tuple[Attention, ...]] = ("none", "mass")

    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], dropout: float) -> None:
        super().__init__(trunk, aliases=aliases, dropout=dropout)
        self.trunk = Trunk(trunk.shape, dropout=dropout)
        initialise_blocks(self.trunk, trunk)

    @property
    def num_branches(self) -> int:
        """One: the CLS state."""
        return 1

    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Returns the fused stream; see `FusionOperator.forward`."""
        spans = {"cls": slice(0, 1)}
        if lead.states.shape[1] > 1:
            spans["text"] = slice(1, lead.states.shape[1])
        start = lead.states.shape[1]
        for alias, stream in visual.items():
            spans[alias] = slice(start, start + stream.states.shape[1])
            start = spans[alias].stop
        streams = [lead, *visual.values()]
        valid = torch.cat([stream.valid for stream in streams], dim=1)
        states, mass = self.trunk(
            torch.cat([stream.states for stream in streams], dim=1),
            valid=valid,
            mass_of=list(spans.values()) if attention == "mass" else None,
        )
        report = None if mass is None else AttentionMass(mass, tuple(spans), token_share(valid, spans))
        return Encoded(states, valid, spans, rearrange(states[:, 0], "b w -> b 1 w"), report)


def token_share(valid: Bool[Tensor, "b l"], spans: Mapping[str, slice]) -> Float[Tensor, " e"]:
    """Returns the share of each example's valid tokens that each span holds, averaged over the batch."""
    counts = torch.stack([valid[:, span].sum(dim=1) for span in spans.values()], dim=1)
    return (counts / valid.sum(dim=1, keepdim=True)).mean(dim=0)
