"""`coattention`: a text stream and a visual stream, each with blocks of its own, that read each other in every layer.

As in METER (Dou et al. 2022) and ViLBERT (Lu et al. 2019): self-attention within a stream, cross-attention to
the other, MLP. The visual stream holds the tokens of all encoders present. Both streams start from the trunk's
weights, cross-attention from random ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fusion.config import FusionConfig
from fusion.joint import join
from fusion.memory import indicator, reading_report, tokens_of
from fusion.operators import Attention, FusionOperator, Stream
from fusion.reading import Asked, Memory, Reading
from fusion.resampler import without_encoders
from fusion.transformer import Block, Sight, Trunk
from fusion.trunk import TextTrunk, initialise_blocks
from fusion.types import Encoded


class CoAttention(FusionOperator):
    """Two streams that read each other.

    Pooled is the CLS state of the text stream. Attention mass is that of its CLS query on the visual stream.
    """

    absent: ClassVar[str] = "its tokens are not in the visual stream; without any encoder nothing is read"

    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], config: FusionConfig, seed: int) -> None:
        super().__init__(trunk, aliases=aliases, config=config, seed=seed)
        self.trunk = Trunk(trunk.shape, dropout=config.dropout)
        self.visual_trunk = Trunk(trunk.shape, dropout=config.dropout)
        self.text_reads = _readings(trunk, config)
        self.visual_reads = _readings(trunk, config)
        initialise_blocks(self.trunk, trunk)
        initialise_blocks(self.visual_trunk, trunk)

    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Returns both streams, the text's first; see `FusionOperator.forward`."""
        if not visual:
            layers = len(self.trunk.blocks)
            return without_encoders(self.trunk, lead, layers=layers, query="cls", attention=attention)
        tokens, tokens_valid, tokens_spans = tokens_of(visual)
        seen = Stream(tokens, tokens_valid)
        asked = None
        if attention == "mass":
            asked = Asked(torch.ones_like(lead.valid[:, :1]), indicator(tokens_valid, tokens_spans))
        text, seen, masses = self._layers(lead, seen, asked)
        states = torch.cat([self.trunk.final_norm(text.states), self.visual_trunk.final_norm(seen.states)], dim=1)
        _, valid, spans = join(lead, visual)
        encoded = Encoded(states, valid, spans, rearrange(states[:, 0], "b w -> b 1 w"))
        if asked is None:
            return encoded
        report, weight = reading_report(torch.stack(masses), tokens_valid, tokens_spans, query="cls")
        return replace(encoded, attention=report, weight=weight)

    def _layers(
        self, text: Stream, seen: Stream, asked: Asked | None
    ) -> tuple[Stream, Stream, list[Float[Tensor, "b h e"]]]:
        """Runs all layers; returns both streams, and where asked for each layer's mass of CLS on the visual one."""
        text_sights = self.trunk.sights(text.valid, num_text=text.states.shape[1])
        seen_sights = self.visual_trunk.sights(seen.valid, num_text=0)
        masses: list[Tensor] = []
        for layer in range(len(self.trunk.blocks)):
            own = _attended(self.trunk.blocks[layer], text, text_sights[layer])
            other = _attended(self.visual_trunk.blocks[layer], seen, seen_sights[layer])
            read, mass = self.text_reads[layer](own, memory=Memory(other, seen.valid[:, None]), asked=asked)
            back, _ = self.visual_reads[layer](other, memory=Memory(own, text.valid[:, None]))
            text = replace(text, states=_fed(self.trunk.blocks[layer], read))
            seen = replace(seen, states=_fed(self.visual_trunk.blocks[layer], back))
            if mass is not None:
                masses.append(mass)
        return text, seen, masses


def _readings(trunk: TextTrunk, config: FusionConfig) -> nn.ModuleList:
    return nn.ModuleList(Reading(trunk.shape, dropout=config.dropout) for _ in range(config.layers))


def _attended(block: nn.Module, stream: Stream, sight: Sight) -> Float[Tensor, "b l w"]:
    assert isinstance(block, Block)
    states, _ = block.attend(stream.states, sight=sight)
    return states


def _fed(block: nn.Module, states: Float[Tensor, "b l w"]) -> Float[Tensor, "b l w"]:
    assert isinstance(block, Block)
    return block.feed(states)
