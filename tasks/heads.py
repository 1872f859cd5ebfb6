"""Heads: pooled states of K branches in, logits or embeddings out. Branches share the head, and its outputs are
averaged; a branch that is all zeros in an example does not count there.
"""

from __future__ import annotations

import torch
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
        return over_branches(logits, pooled)

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
        return F.normalize(over_branches(self.linear(pooled), pooled), dim=-1)


def over_branches(values: Float[Tensor, "b k c"], pooled: Float[Tensor, "b k w"]) -> Float[Tensor, "b c"]:
    """The mean of what a head makes of each branch, over the branches that count."""
    if values.shape[1] == 1:
        return values[:, 0]
    counts = (pooled != 0).any(dim=2, keepdim=True)
    return (values * counts).sum(dim=1) / counts.sum(dim=1)
