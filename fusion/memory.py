"""The encoders' tokens as one memory to read from.

Handed the streams of the encoders present, hands on their tokens one after the other and whose each is.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusion.joint import attention_weight, token_share
from fusion.operators import Stream
from fusion.types import AttentionMass, EncoderWeight, Query


def tokens_of(visual: Mapping[str, Stream]) -> tuple[Float[Tensor, "b l w"], Bool[Tensor, "b l"], dict[str, slice]]:
    """Returns all visual tokens, which are real, and the span of each encoder."""
    spans, start = {}, 0
    for alias, stream in visual.items():
        spans[alias] = slice(start, start + stream.states.shape[1])
        start = spans[alias].stop
    streams = list(visual.values())
    states = torch.cat([stream.states for stream in streams], dim=1)
    return states, torch.cat([stream.valid for stream in streams], dim=1), spans


def indicator(valid: Bool[Tensor, "b l"], spans: Mapping[str, slice]) -> Float[Tensor, "b l e"]:
    """Returns 1 where a token belongs to a span, 0 elsewhere."""
    owned = torch.zeros(*valid.shape, len(spans), device=valid.device)
    for column, span in enumerate(spans.values()):
        owned[:, span, column] = 1
    return owned


def reading_report(
    mass: Float[Tensor, "layers b h e"],
    valid: Bool[Tensor, "b l"],
    spans: Mapping[str, slice],
    *,
    query: Query,
) -> tuple[AttentionMass, EncoderWeight]:
    """Returns the attention of an operator that reads the encoders alone, and their weights."""
    report = AttentionMass(mass, tuple(spans), token_share(valid, spans), query)
    return report, attention_weight(report, tuple(spans))
