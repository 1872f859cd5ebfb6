"""The transformer blocks of every trunk, over PyTorch's fused attention.

Handed states and the mask of valid tokens, hands on states and, on request, the attention mass of the CLS
query. One block serves trunks from scratch and from a ViT (LayerNorm before each part), BERT checkpoints and
their like (LayerNorm after, Devlin et al. 2019) and ModernBERT (rotary positions, gated MLP, local layers;
Warner et al. 2024). No mask is passed when every token is valid: the fused kernel is fastest without one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion.attention import attention
from fusion.errors import FusionError, choices

Activation = Literal["gelu", "gelu_tanh", "relu"]
Rotation = tuple[Float[Tensor, "l c"], Float[Tensor, "l c"]]


@dataclass(frozen=True, slots=True)
class TrunkShape:
    """What must be known to build a trunk and its text embeddings, without any weights.

    Attributes:
        mlp_width: inner width of a block's MLP; of each half where it is gated.
        positions: learned absolute positions of the text, or rotations in every layer.
        gated_mlp: whether one half of the MLP's inner states multiplies the other.
        first_norm: whether the first block normalises before its attention.
        local_layers: layers in which a text token sees others up to `local_reach` places away only.
        thetas: base of the rotations in global and in local layers.
        text_eps: of the LayerNorm of text embeddings, where it is another than the blocks'.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    vocab_size: int
    max_positions: int
    norm: Literal["pre", "post"] = "pre"
    activation: Activation = "gelu"
    eps: float = 1e-5
    positions: Literal["absolute", "rotary"] = "absolute"
    gated_mlp: bool = False
    first_norm: bool = True
    local_layers: tuple[int, ...] = ()
    local_reach: int = 0
    thetas: tuple[float, float] = (160_000.0, 10_000.0)
    text_eps: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrunkShape":
        """Returns the shape that `asdict` and JSON made `values` of."""
        exact: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**exact)

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise FusionError(
                f"unknown activation {self.activation!r}; {choices(self.activation, get_args(Activation))}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What the queries of a layer may see: all keys when `mask` is None, and under which rotations."""

    mask: Bool[Tensor, "b 1 q l"] | None = None
    rotation: Rotation | None = None

    @classmethod
    def of(cls, valid: Bool[Tensor, "b l"]) -> "Sight":
        """Every query sees the valid tokens."""
        return cls(None if bool(valid.all()) else valid[:, None, None, :])


def rotations(positions: Float[Tensor, " l"], *, size: int, theta: float) -> Rotation:
    """Returns cosines and sines of rotary positions (Su et al. 2021, halves rotated as in GPT-NeoX)."""
    frequencies = theta ** (-torch.arange(0, size, 2, device=positions.device) / size)
    angles = positions[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: Float[Tensor, "b h l c"], rotation: Rotation) -> Float[Tensor, "b h l c"]:
    """Turns each pair of coordinates by its token's angle, in float32."""
    cosine, sine = rotation
    one, two = states.float().chunk(2, dim=-1)
    turned = states.float() * cosine + torch.cat([-two, one], dim=-1) * sine
    return turned.to(states.dtype)


def cls_mass(
    query: Float[Tensor, "b h c"],
    keys: Float[Tensor, "b h l c"],
    valid: Bool[Tensor, "b l"] | None,
    spans: Sequence[slice] | Float[Tensor, "b l e"],
) -> Float[Tensor, "b h e"]:
    """Returns the share of one query's attention that falls on each span.

    It computes that query's row of the softmax alone, in float32: O(l) beside the attention's O(l^2). No
    gradient.

    Args:
        query: of CLS.
        keys: of every token.
        valid: which tokens that query may see; None for all.
        spans: one after the other, or how much of each token belongs to each of them.
    """
    with torch.autocast(query.device.type, enabled=False):
        scores = torch.einsum("bhc,bhlc->bhl", query.detach().float(), keys.detach().float())
        scores = scores / math.sqrt(query.shape[-1])
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None], -math.inf)
        weights = scores.softmax(dim=-1)
        if isinstance(spans, Tensor):
            return torch.einsum("bhl,ble->bhe", weights, spans.detach().float())
        return torch.stack([weights[..., span].sum(dim=-1) for span in spans], dim=-1)


MassOf = Sequence[slice] | Float[Tensor, "b l e"]


class Block(nn.Module):
    """Self-attention and MLP, each with a residual connection and a LayerNorm before or after it."""

    def __init__(self, shape: TrunkShape, *, dropout: float, layer: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.up = nn.Linear(shape.width, (2 if shape.gated_mlp else 1) * shape.mlp_width)
        self.down = nn.Linear(shape.mlp_width, shape.width)
        normalises = layer > 0 or shape.first_norm
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.eps) if normalises else nn.Identity()
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
        self, states: Float[Tensor, "b l w"], sight: Sight, mass_of: MassOf | None
    ) -> tuple[Float[Tensor, "b l w"], Float[Tensor, "b h e"] | None]:
        query, keys, values = rearrange(self.qkv(states), "b l (s h c) -> s b h l c", s=3, h=self.shape.heads)
        if sight.rotation is not None:
            query, keys = rotate(query, sight.rotation), rotate(keys, sight.rotation)
        attended = attention(query, keys, values, mask=sight.mask)
        mass = None
        if mass_of is not None:
            seen = None if sight.mask is None else sight.mask[:, 0, 0]
            mass = cls_mass(query[:, :, 0], keys, seen, mass_of)
        return self.dropout(self.out(rearrange(attended, "b h l c -> b l (h c)"))), mass

    def _mlp(self, states: Float[Tensor, "b l w"]) -> Float[Tensor, "b l w"]:
        inner: Tensor = self.up(states)
        gate = None
        if self.shape.gated_mlp:
            inner, gate = inner.chunk(2, dim=-1)
        if self.shape.activation == "relu":
            inner = F.relu(inner)
        else:
            inner = F.gelu(inner, approximate="tanh" if self.shape.activation == "gelu_tanh" else "none")
        added: Tensor = self.dropout(self.down(inner if gate is None else inner * gate))
        return added

    def attend(
        self, states: Float[Tensor, "b l w"], *, sight: Sight, mass_of: MassOf | None = None
    ) -> tuple[Float[Tensor, "b l w"], Float[Tensor, "b h e"] | None]:
        """The block's first half: returns states after attention, and the CLS query's attention mass."""
        if self.shape.norm == "pre":
            added, mass = self._attend(self.attention_norm(states), sight, mass_of)
            return states + added, mass
        added, mass = self._attend(states, sight, mass_of)
        return self.attention_norm(states + added), mass

    def feed(self, states: Float[Tensor, "b l w"]) -> Float[Tensor, "b l w"]:
        """The block's second half: returns states after the MLP."""
        if self.shape.norm == "pre":
            return states + self._mlp(self.mlp_norm(states))
        fed: Tensor = self.mlp_norm(states + self._mlp(states))
        return fed

    def forward(
        self, states: Float[Tensor, "b l w"], *, sight: Sight | None = None, mass_of: MassOf | None = None
    ) -> tuple[Float[Tensor, "b l w"], Float[Tensor, "b h e"] | None]:
        """Returns the new states, and the CLS query's attention mass on the spans `mass_of` where given.

        Args:
            states: token 0 is CLS.
            sight: tokens that may be attended to; None when all may.
            mass_of: spans to report on; None costs nothing.
        """
        states, mass = self.attend(states, sight=sight or Sight(), mass_of=mass_of)
        return self.feed(states), mass


class Trunk(nn.Module):
    """A stack of blocks, closed by a LayerNorm where the blocks normalise first."""

    def __init__(self, shape: TrunkShape, *, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        self.blocks = nn.ModuleList(Block(shape, dropout=dropout, layer=k) for k in range(shape.layers))
        self.final_norm = nn.LayerNorm(shape.width, eps=shape.eps) if shape.norm == "pre" else nn.Identity()

    def sights(self, valid: Bool[Tensor, "b l"], *, num_text: int) -> list[Sight]:
        """Returns what each layer may see.

        Local layers limit text among itself; visual tokens see and are seen by everything. Where positions are
        rotations, every visual token has position 0 (that of CLS) whatever the coalition and its order: where
        it is in the image is told by its box.
        """
        everything = Sight.of(valid)
        if self.shape.positions == "absolute":
            return [everything] * self.shape.layers
        positions = torch.arange(valid.shape[1], device=valid.device, dtype=torch.float32)
        positions = positions.where(positions < num_text, 0)
        size = self.shape.width // self.shape.heads
        turns = [rotations(positions, size=size, theta=theta) for theta in self.shape.thetas]
        near = everything.mask
        if num_text > self.shape.local_reach + 1:
            order = torch.arange(valid.shape[1], device=valid.device)
            apart = (order[:, None] - order).abs()
            visual = order >= num_text
            near = ((apart <= self.shape.local_reach) | visual | visual[:, None]) & valid[:, None, None, :]
            near = near | (apart == 0)  # padding far from its text's end: a row without any key would be NaN
        seen = (Sight(everything.mask, turns[0]), Sight(near, turns[1]))
        return [seen[layer in self.shape.local_layers] for layer in range(self.shape.layers)]

    def begin(
        self, states: Float[Tensor, "b l w"], *, valid: Bool[Tensor, "b l"], layers: int
    ) -> Float[Tensor, "b l w"]:
        """Returns a text's states after the first layers."""
        sights = self.sights(valid, num_text=valid.shape[1])
        for block, sight in list(zip(self.blocks, sights, strict=True))[:layers]:
            states, _ = block(states, sight=sight)
        return states

    def forward(
        self,
        states: Float[Tensor, "b l w"],
        *,
        valid: Bool[Tensor, "b l"],
        num_text: int = 0,
        mass_of: MassOf | None = None,
        done: int = 0,
    ) -> tuple[Float[Tensor, "b l w"], Float[Tensor, "layers b h e"] | None]:
        """Returns the states after the last layer and, if asked for, every layer's CLS attention mass.

        Args:
            states: token 0 is CLS.
            valid: tokens that may be attended to.
            num_text: CLS and text tokens, which come first; the others are visual.
            mass_of: spans to report on; None costs nothing.
            done: layers that the states have passed already.
        """
        masses: list[Tensor] = []
        sights = self.sights(valid, num_text=num_text)
        for block, sight in list(zip(self.blocks, sights, strict=True))[done:]:
            states, mass = block(states, sight=sight, mass_of=mass_of)
            if mass is not None:
                masses.append(mass)
        return self.final_norm(states), torch.stack(masses) if masses else None
