"""Attention of a live model, layer by layer: mass, norm-weighted mass, blocks between spans, and rollout.

Handed a model with `FusionModel`'s `encode`; hands on what its attention does in one batch. The weights are computed
again, in float32, from the queries, keys, values and masks that the model hands to PyTorch's fused kernel, which itself
returns none. It describes and attributes nothing: a token can draw much attention and have a value vector of nearly
zero length, which the norm-weighted mass shows (Kobayashi et al. 2020) and plain mass and rollout (Abnar & Zuidema
2020) do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from analysis.errors import LiveModelError
from fusion.types import Coalition, Encoded, FeatureMap

KERNEL = "scaled_dot_product_attention"


@runtime_checkable
class FusionLike(Protocol):
    """What is asked of a model."""

    def encode(self, text: Sequence[str] | None, features: FeatureMap | None, coalition: Coalition) -> Encoded:
        """One stream of CLS, text and encoders' tokens."""
        ...


@dataclass(frozen=True, eq=False)
class LiveAttention:
    """What attention does in one batch.

    Attributes:
        names: the spans of axis e: "cls", "text" where there is text, then the encoders present.
        mass: share of the CLS query's attention that falls on each span; sums to 1 over e.
        norm_weighted: the same with each weight times the length of the value vector that it lets through.
        blocks: mean share of each span's queries (first e) that falls on each span (second e).
        rollout: share of each span in what CLS is made of after all layers, product of (A + I) / 2 over heads' means.
        token_share: share of the valid tokens that each span holds.
    """

    names: tuple[str, ...]
    mass: Float[Tensor, "layers b h e"]
    norm_weighted: Float[Tensor, "layers b h e"]
    blocks: Float[Tensor, "layers h e e"]
    rollout: Float[Tensor, "b e"]
    token_share: Float[Tensor, " e"]

    def lift(self, share: Float[Tensor, "*r e"]) -> dict[str, float]:
        """Each encoder's part of what falls on encoders, over its part of their tokens; 1 is indifference.

        Args:
            share: one of mass, norm_weighted or rollout.
        """
        encoders = [k for k, name in enumerate(self.names) if name not in ("cls", "text")]
        mean = share.reshape(-1, len(self.names)).mean(dim=0)[encoders]
        ratio = (mean / mean.sum()) / (self.token_share[encoders] / self.token_share[encoders].sum())
        return {self.names[k]: float(value) for k, value in zip(encoders, ratio, strict=True)}


@torch.no_grad()
def live_attention(
    model: FusionLike, text: Sequence[str] | None, features: FeatureMap | None, coalition: Coalition
) -> LiveAttention:
    """Runs one batch and looks at every self-attention over the whole stream.

    Raises:
        LiveModelError: no layer attends over the stream as a whole, as where an operator keeps encoders apart.
    """
    with _Recorder() as recorder:
        encoded = model.encode(text, features, coalition)
    length = encoded.states.shape[1]
    layers = [call for call in recorder.calls if call.spans_stream(length)]
    if not layers:
        seen = sorted({tuple(call.query.shape[-2:]) for call in recorder.calls})
        raise LiveModelError(
            f"no self-attention over the stream of {length} tokens, only over queries of {seen or 'none'}: an operator "
            "that keeps encoders apart has no joint attention; `concat` has"
        )
    spans = encoded.spans
    masses, weighted, blocks, rolled = [], [], [], None
    for layer in layers:
        weights = layer.weights()
        masses.append(_by_span(weights[:, :, 0], spans))
        lengths = weights[:, :, 0] * layer.values.float().norm(dim=-1)
        weighted.append(_by_span(lengths / lengths.sum(dim=-1, keepdim=True).clamp_min(1e-30), spans))
        blocks.append(_blocks(weights, encoded.valid, spans))
        mixed = (weights.mean(dim=1) + torch.eye(length, device=weights.device)) / 2
        rolled = mixed if rolled is None else mixed @ rolled
    assert rolled is not None
    counts = torch.stack([encoded.valid[:, span].sum(dim=1) for span in spans.values()], dim=1).float()
    share = (counts / counts.sum(dim=1, keepdim=True)).mean(dim=0)
    return LiveAttention(
        tuple(spans),
        torch.stack(masses),
        torch.stack(weighted),
        torch.stack(blocks),
        _by_span(rolled[:, 0], spans),
        share,
    )


def _by_span(weights: Float[Tensor, "*r l"], spans: Mapping[str, slice]) -> Float[Tensor, "*r e"]:
    return torch.stack([weights[..., span].sum(dim=-1) for span in spans.values()], dim=-1)


def _blocks(
    weights: Float[Tensor, "b h l l"], valid: Bool[Tensor, "b l"], spans: Mapping[str, slice]
) -> Float[Tensor, "h e e"]:
    """Means over the valid queries of each span; 0 where a span has none in the batch."""
    received = _by_span(weights, spans) * valid[:, None, :, None]
    rows = []
    for span in spans.values():
        count = valid[:, span].sum().clamp_min(1)
        rows.append(received[:, :, span].sum(dim=(0, 2)) / count)
    return torch.stack(rows, dim=1)


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of the attention kernel."""

    query: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None

    def spans_stream(self, length: int) -> bool:
        """Whether it is self-attention over that many tokens."""
        return self.query.shape[-2] == self.keys.shape[-2] == length

    def weights(self) -> Tensor:
        """softmax(q k^T / sqrt(c)) over the keys that the mask lets through."""
        scores = self.query.float() @ self.keys.float().transpose(-1, -2) / math.sqrt(self.query.shape[-1])
        if self.mask is not None and self.mask.dtype == torch.bool:
            scores = scores.masked_fill(~self.mask, -math.inf)
        elif self.mask is not None:
            scores = scores + self.mask
        return scores.softmax(dim=-1)


class _Recorder(TorchFunctionMode):
    """Notes what is handed to the attention kernel; computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") == KERNEL:
            named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | given
            self.calls.append(_Call(named["query"], named["key"], named["value"], named.get("attn_mask")))
        return func(*args, **given)
