"""Heads: pooled states of K branches in, logits or embeddings out. Branches share the head, and its outputs
are averaged.
"""

from __future__ import annotations

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class MlpHead(nn.Module):
    """Linear, LayerNorm, GELU, Linear with twice the width inside, as in METER and ViLT; logits averaged over
    branches.
    """

    def __init__(self, *, width: int, num_outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.output = nn.Linear(2 * width, num_outputs)

    def forward(self, pooled: Float[Tensor, "b k w"]) -> Float[Tensor, "b c"]:
        logits = self.output(F.gelu(self.norm(self.hidden(pooled))))
        averaged: Tensor = reduce(logits, "b k c -> b c", "mean")
        return averaged

    def start_from(self, bias: Float[Tensor, " c"]) -> None:
        """Sets the output bias, so that training starts from known frequencies instead of one half for every
        class.
        """
        with torch.no_grad():
            self.output.bias.copy_(bias)


class Projection(nn.Module):
    """Linear map into the shared image-text space, averaged over branches and scaled to unit length."""

    def __init__(self, *, width: int, shared: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, shared)

    def forward(self, pooled: Float[Tensor, "b k w"]) -> Float[Tensor, "b d"]:
        return F.normalize(reduce(self.linear(pooled), "b k d -> b d", "mean"), dim=-1)
