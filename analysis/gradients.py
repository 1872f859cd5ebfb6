"""Gradient attributions per encoder, through captum: integrated gradients and layer conductance.

Handed a function that scores a batch of features, one number an example; hands on one number an example and encoder.
Both go along the straight path from a baseline to the features and sum to the difference in score between its ends
(completeness), whose miss is handed on as `delta`. They say what the score is sensitive to and do not replace taking an
encoder away: a path through features that no image has need not show what its absence does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from analysis.errors import LiveModelError
from fusion.types import FeatureMap, Features

STEPS = 50
ROWS_AT_ONCE = 512


@runtime_checkable
class Score(Protocol):
    """What is attributed: one number for each row, such as the log-probability of the target."""

    def __call__(self, features: FeatureMap, rows: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """Scores features; `rows` says of which example of the batch each row is a point on the path."""
        ...


@dataclass(frozen=True, eq=False)
class EncoderAttribution:
    """One number an example and encoder.

    Attributes:
        names: the encoders of axis e.
        values: signed; sum over e to score(features) - score(baseline), less `delta`.
        delta: what the sum of the values misses that difference by, through the finite number of steps.
    """

    names: tuple[str, ...]
    values: Float[Tensor, "b e"]
    delta: Float[Tensor, " b"]


def integrated_gradients(
    score: Score, features: FeatureMap, *, baseline: FeatureMap | None = None, steps: int = STEPS
) -> EncoderAttribution:
    """Integrated gradients (Sundararajan et al. 2017) of every token, summed over each encoder.

    Args:
        score: of a model in evaluation mode.
        features: of the encoders to attribute to.
        baseline: where the path starts; by default the batch's mean tokens. Zeros are a bad start where a LayerNorm
            reads the tokens: everything along the path then happens next to zero.
        steps: of the Gauss-Legendre quadrature.
    """
    from captum.attr import IntegratedGradients  # type: ignore[import-untyped]

    given = _Inputs.of(features, baseline)
    method: Any = IntegratedGradients(given.forward(score), multiply_by_inputs=True)
    found = method.attribute(given.tokens, **given.settings(steps))
    return _attribution(score, given, [part.flatten(1).sum(dim=1) for part in found])


def layer_relevance(
    score: Score,
    features: FeatureMap,
    layers: Mapping[str, nn.Module],
    *,
    baseline: FeatureMap | None = None,
    steps: int = STEPS,
) -> EncoderAttribution:
    """Conductance (Dhamdhere et al. 2018) through one layer an encoder, such as the adapter that its tokens pass.

    Where a layer sees all that one encoder gives and nothing of the others, it equals that encoder's integrated
    gradients; where layers mix encoders, it shows by which way the score is reached.

    Args:
        layers: by alias, a module that is called once a pass and returns one tensor with the batch first.

    Raises:
        LiveModelError: an encoder without a layer.
    """
    from captum.attr import LayerConductance

    missing = [alias for alias in features if alias not in layers]
    if missing:
        raise LiveModelError(f"no layer is given for encoder {missing[0]!r}; given: {', '.join(layers) or 'none'}")
    given = _Inputs.of(features, baseline)
    parts = []
    for alias in given.names:
        method: Any = LayerConductance(given.forward(score), layers[alias])
        found = method.attribute(given.tokens, **given.settings(steps))
        parts.append(found.flatten(1).sum(dim=1))
    return _attribution(score, given, parts)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Features as captum wants them: a tuple of tensors, and which example each row belongs to."""

    features: FeatureMap
    names: tuple[str, ...]
    tokens: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    rows: Tensor

    def settings(self, steps: int) -> dict[str, Any]:
        """What captum's methods are told beside the tokens."""
        return {
            "baselines": self.baselines,
            "additional_forward_args": (self.rows,),
            "n_steps": steps,
            "internal_batch_size": max(ROWS_AT_ONCE, len(self.rows)),
        }

    @classmethod
    def of(cls, features: FeatureMap, baseline: FeatureMap | None) -> _Inputs:
        names = tuple(features)
        valid = tuple(features[name].valid[..., None] for name in names)
        tokens = tuple(_seen(features[name].tokens, where) for name, where in zip(names, valid, strict=True))
        means = (part.sum(dim=0) / where.sum(dim=0).clamp_min(1) for part, where in zip(tokens, valid, strict=True))
        starts = tuple(mean.expand_as(part).contiguous() for mean, part in zip(means, tokens, strict=True))
        if baseline is not None:
            starts = tuple(_seen(baseline[name].tokens, where) for name, where in zip(names, valid, strict=True))
        return cls(features, names, tokens, starts, torch.arange(len(tokens[0]), device=tokens[0].device))

    def forward(self, score: Score) -> Any:
        """The score as a function of token tensors; captum repeats `rows` as it repeats them."""

        def scored(*given: Tensor) -> Tensor:
            rows = given[-1]
            made = {
                name: Features(tokens, self.features[name].boxes[rows], self.features[name].valid[rows])
                for name, tokens in zip(self.names, given[:-1], strict=True)
            }
            return score(made, rows)

        return scored


def _seen(tokens: Float[Tensor, "b l d"], valid: Bool[Tensor, "b l 1"]) -> Float[Tensor, "b l d"]:
    """Tokens with zeros for padding, which no model reads and no attribution may."""
    return tokens.masked_fill(~valid, 0)


def _attribution(score: Score, given: _Inputs, parts: list[Tensor]) -> EncoderAttribution:
    values = torch.stack(parts, dim=1).detach()
    forward = given.forward(score)
    with torch.no_grad():
        difference = forward(*given.tokens, given.rows) - forward(*given.baselines, given.rows)
    return EncoderAttribution(given.names, values, difference - values.sum(dim=1))
