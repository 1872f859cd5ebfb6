"""Cross-attention: queries read the tokens of others, at the price of queries times tokens.

Handed states and a memory, hands on states and, on request, the attention mass on each span of the memory,
found by attending to an indicator in place of the values: no matrix of weights is kept. An example whose memory
holds nothing valid reads nothing.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion.attention import attention
from fusion.transformer import TrunkShape


class Memory(NamedTuple):
    """What is read: tokens, and which of them each query may see (one row for all queries, or one each)."""

    states: Float[Tensor, "b l w"]
    seen: Bool[Tensor, "b q l"]


class Asked(NamedTuple):
    """Whose attention is asked about, and the spans: how much of each memory token belongs to each.

    `queries` has a column for each of the first queries; nothing is computed for those behind them.
    """

    queries: Bool[Tensor, "b q"]
    spans: Float[Tensor, "b l e"]


def span_mass(
    query: Float[Tensor, "b h q c"],
    keys: Float[Tensor, "b h l c"],
    mask: Bool[Tensor, "b 1 x l"],
    asked: Asked,
) -> Float[Tensor, "b h e"]:
    """Returns the attention mass on each span, averaged over the queries asked about; 0 without any.

    Attention is linear in its values: with a span's indicator as values it returns the span's mass. Fused kernels
    take values of the queries' size alone, so indicators are read that many at a time, filled up with zeros. In
    float32, without gradient.
    """
    heads, size, num_asked = query.shape[1], query.shape[3], asked.queries.shape[1]
    parts = []
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        query, keys, mask = query[:, :, :num_asked].float(), keys.float(), mask[:, :, :num_asked]
        for spans in torch.split(asked.spans.float(), size, dim=2):
            filled = repeat(F.pad(spans, (0, size - spans.shape[2])), "b l c -> b h l c", h=heads)
            if filled.is_cuda:  # whose kernels are said to misread heads that share their memory
                filled = filled.contiguous()
            read = F.scaled_dot_product_attention(query, keys, filled, attn_mask=mask)
            parts.append(read[..., : spans.shape[2]])
        rows = asked.queries[:, None, :, None]
        mass = torch.cat(parts, dim=3).masked_fill(~rows, 0)
        total: Tensor = mass.sum(dim=2) / rows.sum(dim=2).clamp_min(1)
        return total


class Reading(nn.Module):
    """Multi-head cross-attention with its residual connection and LayerNorms, where the trunk's shape has them."""

    def __init__(self, shape: TrunkShape, *, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        self.query = nn.Linear(shape.width, shape.width)
        self.keys_values = nn.Linear(shape.width, 2 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.memory_norm = nn.LayerNorm(shape.width, eps=shape.eps) if shape.norm == "pre" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        for linear, gain in ((self.query, 1.0), (self.keys_values, 1.0), (self.out, 2 * shape.layers)):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(gain * shape.width))
            nn.init.zeros_(linear.bias)

    def forward(
        self, states: Float[Tensor, "b q w"], *, memory: Memory, asked: Asked | None = None
    ) -> tuple[Float[Tensor, "b q w"], Float[Tensor, "b h e"] | None]:
        """Returns the new states, and where asked for the attention mass on each span of the memory.

        The states of queries that see nothing stay as they are.
        """
        reads = memory.seen.any(dim=-1, keepdim=True)
        if self.shape.norm == "pre":
            added, mass = self._read(self.norm(states), memory, asked, reads)
            return torch.where(reads, states + added, states), mass
        added, mass = self._read(states, memory, asked, reads)
        return torch.where(reads, self.norm(states + added), states), mass

    def _read(
        self,
        states: Float[Tensor, "b q w"],
        memory: Memory,
        asked: Asked | None,
        reads: Bool[Tensor, "b x 1"],
    ) -> tuple[Float[Tensor, "b q w"], Float[Tensor, "b h e"] | None]:
        heads = self.shape.heads
        query = rearrange(self.query(states), "b q (h c) -> b h q c", h=heads)
        projected = self.keys_values(self.memory_norm(memory.states))
        keys, values = rearrange(projected, "b l (s h c) -> s b h l c", s=2, h=heads)
        mask = (memory.seen | ~reads)[:, None]  # a row without any key would be NaN
        attended = attention(query, keys, values, mask=mask)
        added = self.out(rearrange(attended, "b h q c -> b q (h c)")).masked_fill(~reads, 0)
        mass = None
        if asked is not None:
            of = Asked(asked.queries & reads[:, : asked.queries.shape[1], 0], asked.spans)
            mass = span_mass(query.detach(), keys.detach(), mask, of)
        return self.dropout(added), mass


class Reader(nn.Module):
    """Learned queries that read several times, each time followed by an MLP: pre-norm, as large as a text
    embedding at its end."""

    def __init__(self, shape: TrunkShape, *, num_queries: int, reads: int, dropout: float) -> None:
        super().__init__()
        inner = TrunkShape(shape.width, reads, shape.heads, 4 * shape.width, 1, 1)
        self.queries = nn.Parameter(torch.empty(num_queries, shape.width).normal_())
        self.readings = nn.ModuleList(Reading(inner, dropout=dropout) for _ in range(reads))
        self.feeds = nn.ModuleList(Feed(inner, dropout=dropout) for _ in range(reads))
        self.output_norm = nn.LayerNorm(shape.width, eps=shape.eps)

    def forward(
        self, memory: Memory, *, asked: Asked | None = None
    ) -> tuple[Float[Tensor, "b q w"], Float[Tensor, "reads b h e"] | None]:
        """Returns the queries after the last reading, and where asked for each reading's attention mass."""
        states = repeat(self.queries, "q w -> b q w", b=memory.states.shape[0])
        masses: list[Tensor] = []
        for reading, feed in zip(self.readings, self.feeds, strict=True):
            states, mass = reading(states, memory=memory, asked=asked)
            states = feed(states)
            if mass is not None:
                masses.append(mass)
        return self.output_norm(states), torch.stack(masses) if masses else None


class Feed(nn.Module):
    """LayerNorm, Linear, GELU, Linear, added to what came in."""

    def __init__(self, shape: TrunkShape, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.up = nn.Linear(shape.width, shape.mlp_width)
        self.down = nn.Linear(shape.mlp_width, shape.width)
        self.dropout = nn.Dropout(dropout)
        for linear, gain in ((self.up, 1.0), (self.down, 2 * shape.layers)):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(gain * linear.in_features))
            nn.init.zeros_(linear.bias)

    def forward(self, states: Float[Tensor, "b q w"]) -> Float[Tensor, "b q w"]:
        """Returns the new states."""
        added: Tensor = self.dropout(self.down(F.gelu(self.up(self.norm(states)))))
        return states + added
