"""`concat`: one stream of CLS, text and the tokens of all encoders present, through one trunk.

As in VisualBERT (Li et al. 2019). Handed streams, hands on the states after the last layer, pooled at CLS.
"""

from collections.abc import Mapping
from typing import ClassVar

from fusion.config import FusionConfig
from fusion.joint import fuse
from fusion.operators import Attention, FusionOperator, Stream
from fusion.transformer import Trunk
from fusion.trunk import TextTrunk, initialise_blocks
from fusion.types import Encoded


class Concat(FusionOperator):
    """Joins the streams along the sequence."""

    absent: ClassVar[str] = "its tokens are not in the sequence: they cost nothing and have no influence"

    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], config: FusionConfig, seed: int) -> None:
        super().__init__(trunk, aliases=aliases, config=config, seed=seed)
        self.trunk = Trunk(trunk.shape, dropout=config.dropout)
        initialise_blocks(self.trunk, trunk)

    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Returns the fused stream; see `FusionOperator.forward`."""
        return fuse(self.trunk, lead, visual=visual, attention=attention)
