"""`gated`: a learned, input-dependent weight per encoder mixes aligned tokens; then one trunk over text and these.

A gate scores each encoder present from the text and from the mean of that encoder's tokens, and a softmax over
the encoders makes weights of the scores. A cell is the weighted mean of the encoders that reach it. One encoder
alone has weight 1: on its own grid it is then `concat`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fusion.cells import CommonGrid
from fusion.config import FusionConfig
from fusion.joint import join, normalised
from fusion.operators import Attention, FusionOperator, Stream
from fusion.transformer import Trunk
from fusion.trunk import TextTrunk, initialise_blocks
from fusion.types import AttentionMass, Encoded, EncoderWeight, coalition_name


class Gated(FusionOperator):
    """Mixes the encoders' aligned tokens by gates.

    A mixed token is exactly a weighted sum of the encoders' tokens, so its attention mass is shared by these
    weights.
    """

    absent: ClassVar[str] = "it has no gate: the weights of those present sum to 1 without it"

    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], config: FusionConfig, seed: int) -> None:
        super().__init__(trunk, aliases=aliases, config=config, seed=seed)
        self.grid = CommonGrid(config)
        self.of_text = nn.Linear(config.width, config.width)
        self.of_encoder = nn.Linear(config.width, config.width)
        self.score = nn.Linear(config.width, 1)
        self.trunk = Trunk(trunk.shape, dropout=config.dropout)
        initialise_blocks(self.trunk, trunk)

    def describe(self) -> dict[str, object]:
        """Returns grid and alignment."""
        return self.grid.describe()

    def gates(self, lead: Stream, visual: Mapping[str, Stream]) -> Float[Tensor, "b e"]:
        """Returns the weight of each encoder present; 0 for one without any valid token in an example."""
        said = self.of_text(_mean(lead))
        scores = [self.score(torch.tanh(said + self.of_encoder(_mean(stream)))) for stream in visual.values()]
        there = torch.stack([stream.valid.any(dim=1) for stream in visual.values()], dim=1)
        weights = torch.cat(scores, dim=1).float().masked_fill(~there, -1e9).softmax(dim=1)
        return weights * there

    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Returns the fused stream; see `FusionOperator.forward`."""
        mixed: dict[str, Stream] = {}
        gates = lead.states.new_zeros(len(lead.states), 0)
        shares = None
        if visual:
            gates = self.gates(lead, visual)
            cells = [self.grid(stream) for stream in visual.values()]
            reached = torch.stack([part.reached for part in cells], dim=-1)
            shares = gates[:, None] * reached
            total = shares.sum(dim=-1, keepdim=True)
            shares = shares / total.masked_fill(total == 0, 1)
            states = torch.stack([part.states for part in cells], dim=-1)
            mixture = torch.einsum("bmwe,bme->bmw", states, shares.to(states.dtype))
            mixed = {coalition_name(tuple(visual)): Stream(mixture, reached.any(dim=-1))}
        return self._fuse(lead, mixed, tuple(visual), gates=gates, shares=shares, attention=attention)

    def _fuse(
        self,
        lead: Stream,
        mixed: Mapping[str, Stream],
        aliases: tuple[str, ...],
        *,
        gates: Float[Tensor, "b e"],
        shares: Float[Tensor, "b m e"] | None,
        attention: Attention,
    ) -> Encoded:
        """Runs the trunk; where asked for, shares each mixed token's attention among its encoders."""
        states, valid, spans = join(lead, mixed)
        whose = [alias for alias in ("cls", "text") if alias in spans]
        owned = states.new_zeros(*valid.shape, len(whose) + len(aliases), dtype=torch.float32)
        for column, name in enumerate(whose):
            owned[:, spans[name], column] = 1
        if shares is not None:
            owned[:, lead.states.shape[1] :, len(whose) :] = shares.detach().float()
        out, mass = self.trunk(
            states,
            valid=valid,
            num_text=lead.states.shape[1],
            mass_of=owned if attention == "mass" else None,
            done=lead.done,
        )
        encoded = Encoded(out, valid, spans, rearrange(out[:, 0], "b w -> b 1 w"))
        if mass is None:
            return encoded
        counts = (owned * valid[..., None]).sum(dim=1)
        share = (counts / valid.sum(dim=1, keepdim=True)).mean(dim=0)
        report = AttentionMass(mass, (*whose, *aliases), share)
        weight = EncoderWeight(normalised(gates.detach()), aliases, "gate")
        return replace(encoded, attention=report, weight=weight)


def _mean(stream: Stream) -> Float[Tensor, "b w"]:
    """Returns the mean of the valid tokens; 0 without any."""
    kept = stream.states * stream.valid[..., None]
    total: Tensor = kept.sum(dim=1) / stream.valid.sum(dim=1, keepdim=True).clamp_min(1)
    return total
