"""One stream of CLS, text and visual tokens through one trunk: what most operators end in.

Handed streams and a trunk, hands on `Encoded`, pooled at CLS, with the attention mass of the CLS query and the
weight of each encoder on request.
"""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from fusion.operators import Attention, Stream
from fusion.transformer import Trunk
from fusion.types import AttentionMass, Encoded, EncoderWeight


def fuse(trunk: Trunk, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
    """Returns the stream after the trunk; visual tokens follow the text in the order given."""
    states, valid, spans = join(lead, visual)
    states, mass = trunk(
        states,
        valid=valid,
        num_text=lead.states.shape[1],
        mass_of=list(spans.values()) if attention == "mass" else None,
        done=lead.done,
    )
    report = None if mass is None else AttentionMass(mass, tuple(spans), token_share(valid, spans))
    weight = None if report is None else attention_weight(report, tuple(visual))
    return Encoded(states, valid, spans, rearrange(states[:, 0], "b w -> b 1 w"), report, weight)


def join(
    lead: Stream, visual: Mapping[str, Stream]
) -> tuple[Float[Tensor, "b l w"], Bool[Tensor, "b l"], dict[str, slice]]:
    """Returns the streams one after the other, which tokens are real, and whose they are."""
    spans = {"cls": slice(0, 1)}
    start = lead.states.shape[1]
    if start > 1:
        spans["text"] = slice(1, start)
    for alias, stream in visual.items():
        spans[alias] = slice(start, start + stream.states.shape[1])
        start = spans[alias].stop
    streams = [lead, *visual.values()]
    states = torch.cat([stream.states for stream in streams], dim=1)
    return states, torch.cat([stream.valid for stream in streams], dim=1), spans


def token_share(valid: Bool[Tensor, "b l"], spans: Mapping[str, slice]) -> Float[Tensor, " e"]:
    """Returns the share of each example's valid tokens that each span holds, averaged over the batch."""
    if not spans:
        return torch.zeros(0, device=valid.device)
    counts = torch.stack([valid[:, span].sum(dim=1) for span in spans.values()], dim=1)
    return (counts / valid.sum(dim=1, keepdim=True).clamp_min(1)).mean(dim=0)


def attention_weight(report: AttentionMass, aliases: Sequence[str]) -> EncoderWeight:
    """Returns each encoder's share of the attention that falls on encoders, over all layers and heads.

    An example none of whose encoders has a token shares equally.
    """
    columns = [report.names.index(alias) for alias in aliases]
    return EncoderWeight(normalised(report.mass.mean(dim=(0, 2))[:, columns]), tuple(aliases), "attention")


def normalised(values: Float[Tensor, "b e"]) -> Float[Tensor, "b e"]:
    """Returns values divided by their sum; equal shares where all are 0."""
    total = values.sum(dim=1, keepdim=True)
    equal = torch.full_like(values, 1 / max(1, values.shape[1]))
    return torch.where(total > 0, values / total.masked_fill(total == 0, 1), equal)
