"""From an encoder's own tokens to tokens of the fusion width.

Handed one encoder's features and the position vectors of their boxes, hands on tokens ready for the trunk:
normalised, projected, told where they are and whose they are, normalised again to the scale of text
embeddings.
"""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.init import normal_, zeros_
from torch.nn.parameter import Parameter

from fusion.types import Features

START = 0.1
"""Size of a token's content at the start, beside positions of about one: a trained trunk first sees empty places
rather than noise, and what it then sees was learned (as zero-initialised adapters do)."""


class Adapter(nn.Module):
    """LayerNorm, Linear D to W, + position + encoder embedding + visual type, LayerNorm."""

    def __init__(self, encoder_width: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(encoder_width)
        self.project = nn.Linear(encoder_width, width)
        self.encoder_embedding = Parameter(self.project.weight.new_empty(width))
        self.output_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        normal_(self.project.weight, std=START / math.sqrt(encoder_width))
        zeros_(self.project.bias)
        normal_(self.encoder_embedding, std=START)

    def forward(
        self, features: Features, *, positions: Float[Tensor, "b n w"], visual_type: Float[Tensor, " w"]
    ) -> Float[Tensor, "b n w"]:
        """Returns adapted tokens; those not valid start from zeros, so not even a NaN in them spreads."""
        tokens = features.tokens.masked_fill(~features.valid[..., None], 0).to(self.project.weight.dtype)
        content: Tensor = self.project(self.input_norm(tokens))
        adapted: Tensor = self.dropout(
            self.output_norm(content + positions + (self.encoder_embedding + visual_type))
        )
        return adapted
