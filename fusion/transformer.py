"""The transformer blocks of every trunk, over PyTorch's fused attention.

Handed states and the mask of valid tokens, hands on states and, on request, the attention mass of the CLS
query. One block serves trunks from scratch (LayerNorm before each part) and BERT checkpoints (LayerNorm
after, Devlin et al. 2019). No mask is passed when every token is valid: the fused kernel is fastest without
one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion.errors import FusionError, choices

Activation = Literal["gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True, slots=True)
class TrunkShape:
    """What must be known to build a trunk and its text embeddings, without any weights."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    vocab_size: int
    max_positions: int
    norm: Literal["pre", "post"] = "pre"
    activation: Activation = "gelu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise FusionError(
                f"unknown activation {self.activation!r}; {choices(self.activation, get_args(Activation))}"
            )


def cls_mass(
    query: Float[Tensor, "b h c"],
    keys: Float[Tensor, "b h l c"],
    valid: Bool[Tensor, "b l"],
    spans: Sequence[slice],
) -> Float[Tensor, "b h e"]:
    """Returns the share of one query's attention that falls on each span.

    It computes that query's row of the softmax alone, in float32: O(l) beside the attention's O(l^2). No
    gradient.
    """
    with torch.autocast(query.device.type, enabled=False):
        scores = torch.einsum("bhc,bhlc->bhl", query.detach().float(), keys.detach().float())
        scores = scores / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(~valid[:, None], -math.inf).softmax(dim=-1)
        return torch.stack([weights[..., span].sum(dim=-1) for span in spans], dim=-1)


class Block(nn.Module):
    """Self-attention and MLP, each with a residual connection and a LayerNorm before or after it."""

    def __init__(self, shape: TrunkShape, *, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.up = nn.Linear(shape.width, shape.mlp_width)
        self.down = nn.Linear(shape.mlp_width, shape.width)
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.mlp_norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    def _initialise(self) -> None:
        """Unit-variance projections; what is added to the residual stream shrinks with depth (Radford et al.
        2019)."""
        residual = 1 / math.sqrt(2 * self.shape.layers)
        for linear, gain in ((self.qkv, 1.0), (self.up, 1.0), (self.out, residual), (self.down, residual)):
            nn.init.normal_(linear.weight, std=gain / math.sqrt(linear.in_features))
            nn.init.zeros_(linear.bias)

    def _attend(
        self,
        states: Float[Tensor, "b l w"],
        valid: Bool[Tensor, "b l"] | None,
        mass_of: Sequence[slice] | None,
    ) -> tuple[Float[Tensor, "b l w"], Float[Tensor, "b h e"] | None]:
        query, keys, values = rearrange(self.qkv(states), "b l (s h c) -> s b h l c", s=3, h=self.shape.heads)
        mask = None if valid is None else valid[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        mass = None
        if mass_of is not None:
            everything = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
            mass = cls_mass(query[:, :, 0], keys, everything if valid is None else valid, mass_of)
        return self.dropout(self.out(rearrange(attended, "b h l c -> b l (h c)"))), mass

    def _mlp(self, states: Float[Tensor, "b l w"]) -> Float[Tensor, "b l w"]:
        inner: Tensor = self.up(states)
        if self.shape.activation == "relu":
            inner = F.relu(inner)
        else:
            inner = F.gelu(inner, approximate="tanh" if self.shape.activation == "gelu_tanh" else "none")
        added: Tensor = self.dropout(self.down(inner))
        return added

    def forward(
        self,
        states: Float[Tensor, "b l w"],
        *,
        valid: Bool[Tensor, "b l"] | None = None,
        mass_of: Sequence[slice] | None = None,
    ) -> tuple[Float[Tensor, "b l w"], Float[Tensor, "b h e"] | None]:
        """Returns the new states, and the CLS query's attention mass on the spans `mass_of` where given.

        Args:
            states: token 0 is CLS.
            valid: tokens that may be attended to; None when all may.
            mass_of: spans to report on; None costs nothing.
        """
        if self.shape.norm == "pre":
            added, mass = self._attend(self.attention_norm(states), valid, mass_of)
            states = states + added
            return states + self._mlp(self.mlp_norm(states)), mass
        added, mass = self._attend(states, valid, mass_of)
        states = self.attention_norm(states + added)
        return self.mlp_norm(states + self._mlp(states)), mass


class Trunk(nn.Module):
    """A stack of blocks, closed by a LayerNorm where the blocks normalise first."""

    def __init__(self, shape: TrunkShape, *, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(shape, dropout=dropout) for _ in range(shape.layers))
        self.final_norm = nn.LayerNorm(shape.width, eps=shape.eps) if shape.norm == "pre" else nn.Identity()

    def forward(
        self,
        states: Float[Tensor, "b l w"],
        *,
        valid: Bool[Tensor, "b l"],
        mass_of: Sequence[slice] | None = None,
    ) -> tuple[Float[Tensor, "b l w"], Float[Tensor, "layers b h e"] | None]:
        """Returns the states after the last layer and, if asked for, every layer's CLS attention mass."""
        mask = None if bool(valid.all()) else valid
        masses: list[Tensor] = []
        for block in self.blocks:
            states, mass = block(states, valid=mask, mass_of=mass_of)
            if mass is not None:
                masses.append(mass)
        return self.final_norm(states), torch.stack(masses) if masses else None
