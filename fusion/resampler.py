"""`resampler`: learned queries read all encoders; then one trunk over text and these queries.

As in BRAVE (Kar et al. 2024) and Perceiver resamplers (Alayrac et al. 2022). The trunk's length does not depend
on the number of encoders.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from einops import repeat

from fusion.config import FusionConfig
from fusion.joint import fuse
from fusion.memory import indicator, reading_report, tokens_of
from fusion.operators import Attention, FusionOperator, Stream
from fusion.reading import Asked, Memory, Reader
from fusion.transformer import Trunk
from fusion.trunk import TextTrunk, initialise_blocks, initialise_norm
from fusion.types import Encoded, Query, coalition_name

QUERIES = 32
READS = 2


class Resampler(FusionOperator):
    """Learned queries stand in for the encoders' tokens.

    Attention mass is the queries' mean, as they are what looks at encoders; its layers are the readings.
    """

    absent: ClassVar[str] = "its tokens are not among those read; without any encoder there are no queries"

    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], config: FusionConfig, seed: int) -> None:
        super().__init__(trunk, aliases=aliases, config=config, seed=seed)
        self.num_queries, self.reads = config.queries or QUERIES, config.reads or READS
        self.reader = Reader(
            trunk.shape, num_queries=self.num_queries, reads=self.reads, dropout=config.dropout
        )
        self.trunk = Trunk(trunk.shape, dropout=config.dropout)
        initialise_norm(self.reader.output_norm, trunk)
        initialise_blocks(self.trunk, trunk)

    def describe(self) -> dict[str, object]:
        """Returns the number of queries and how often they read."""
        return {"queries": self.num_queries, "reads": self.reads}

    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Returns the fused stream; see `FusionOperator.forward`."""
        if not visual:
            return without_encoders(self.trunk, lead, layers=self.reads, query="latents", attention=attention)
        states, valid, spans = tokens_of(visual)
        there = repeat(valid.any(dim=1), "b -> b q", q=self.num_queries)
        asked = Asked(there, indicator(valid, spans)) if attention == "mass" else None
        latents, mass = self.reader(Memory(states, valid[:, None]), asked=asked)
        read = {coalition_name(tuple(visual)): Stream(latents, there)}
        fused = fuse(self.trunk, lead, visual=read, attention="none")
        if mass is None:
            return fused
        report, weight = reading_report(mass, valid, spans, query="latents")
        return replace(fused, attention=report, weight=weight)


def without_encoders(trunk: Trunk, lead: Stream, *, layers: int, query: Query, attention: Attention) -> Encoded:
    """Returns the text alone; nothing is read, so the attention has no spans."""
    fused = fuse(trunk, lead, visual={}, attention="none")
    if attention == "none":
        return fused
    none = lead.states.new_zeros(layers, len(lead.states), trunk.shape.heads, 0)
    report, weight = reading_report(none, lead.valid[:, :0], {}, query=query)
    return replace(fused, attention=report, weight=weight)
