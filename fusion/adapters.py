"""From an encoder's own tokens to tokens of the fusion width.

Handed one encoder's features and the position vectors of their boxes, hands on tokens ready for the trunk:
standardised, normalised, projected, told where they are and whose they are, normalised again to the scale of text
embeddings.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.init import normal_, zeros_
from torch.nn.parameter import Parameter

from fusion.types import Features

START = 0.1
"""Size of a token's content at the start, beside positions of about one: a trained trunk first sees empty places
rather than noise, and what it then sees was learned (as zero-initialised adapters do)."""


ROUNDING = 1e-8
"""Variance that is rounding, as a share of the channel's mean square and of the channels' mean variance: deviations of
less than a ten thousandth, hundreds of times what float32 rounds."""


class Standardise(nn.Module):
    """Takes each channel's mean away and divides by its standard deviation, over the tokens observed.

    What an encoder's tokens have in common tells no two of them apart, and it can be most of them: 95 % of the
    squared length of the demo ViT's tokens, and the massive activations of large ViTs (Sun et al. 2024). A LayerNorm
    normalises over channels and keeps it. Until something is observed, tokens pass as they are.

    A channel that did not vary, but for rounding, is divided by what channels deviate on average: its own deviation
    would make rounding as large as any content, and a value not observed before thousands of times larger.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.zeros(width))

    @torch.no_grad()
    def observe(self, tokens: Float[Tensor, "rows d"]) -> None:
        """Adds tokens to what means and deviations are taken over (Chan et al. 1979)."""
        if not len(tokens):
            return
        given = tokens.to(self.mean)
        share = len(given) / (self.count + len(given))
        apart = given.mean(dim=0) - self.mean
        self.variance += share * (given.var(dim=0, correction=0) - self.variance + (1 - share) * apart.square())
        self.mean += share * apart
        self.count += len(given)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Returns standardised tokens."""
        average = self.variance.mean()
        varied = self.variance > ROUNDING * (self.mean.square() + average)
        variance = torch.where(varied, self.variance, average)
        scale = torch.where(variance > 0, variance, 1).rsqrt()
        return (tokens - self.mean.to(tokens)) * scale.to(tokens)


class Adapter(nn.Module):
    """Standardise, LayerNorm, Linear D to W, + position + encoder embedding + visual type, LayerNorm."""

    def __init__(self, encoder_width: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.standardise = Standardise(encoder_width)
        self.input_norm = nn.LayerNorm(encoder_width)
        self.project = nn.Linear(encoder_width, width)
        self.encoder_embedding = Parameter(self.project.weight.new_empty(width))
        self.output_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        normal_(self.project.weight, std=START / math.sqrt(encoder_width))
        zeros_(self.project.bias)
        normal_(self.encoder_embedding, std=START)

    def observe(self, features: Features) -> None:
        """Adds features to what tokens are standardised by."""
        self.standardise.observe(features.tokens[features.valid])

    def forward(
        self, features: Features, *, positions: Float[Tensor, "b n w"], visual_type: Float[Tensor, " w"]
    ) -> Float[Tensor, "b n w"]:
        """Returns adapted tokens; those not valid start from zeros, so not even a NaN in them spreads."""
        tokens = features.tokens.masked_fill(~features.valid[..., None], 0).to(self.project.weight.dtype)
        content: Tensor = self.project(self.input_norm(self.standardise(tokens)))
        adapted: Tensor = self.dropout(
            self.output_norm(content + positions + (self.encoder_embedding + visual_type))
        )
        return adapted
