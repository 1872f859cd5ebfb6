"""Attention with its softmax written out, and the mass that each operator then has to report."""

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from fusion_batch import batch, close
from torch import Tensor

from fusion.model import FusionModel
from fusion.types import Encoded, Features


class Explicit:
    """Stands in for the fused kernel; keeps the weights of every call but those that only ask for mass."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = exponentials / exponentials.sum(-1, keepdim=True)
        if torch.is_grad_enabled():  # mass is asked for without
            self.weights.append(weights.detach())
        return weights @ values


def mass_and_weights(
    model: FusionModel, texts: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Encoded, list[Tensor]]:
    """Compares the mass of vit+clip, clip with a hole, to the explicit one; returns the stream and the weights."""
    features = {alias: batch()[alias] for alias in ("vit", "clip")}
    features["clip"].valid[1, 4:7] = False
    asked = model.encode(texts, features, ("vit", "clip"), attention="mass")
    explicit = Explicit()
    with monkeypatch.context() as patched:
        patched.setattr(F, "scaled_dot_product_attention", explicit)
        written_out = model.encode(texts, features, ("vit", "clip"), attention="mass")
    close(written_out.pooled, asked.pooled)
    assert asked.attention is not None and not asked.attention.mass.requires_grad
    close(asked.attention.mass, expected_mass(model.config.operator, explicit.weights, asked, features))
    close(asked.attention.mass.sum(-1), torch.ones(asked.attention.mass.shape[:3]))
    return asked, explicit.weights


def expected_mass(operator: str, weights: list[Tensor], encoded: Encoded, features: Mapping[str, Features]) -> Tensor:
    """Layers b h e from the explicit weights, for "vit" and "clip": those of CLS, or the mean over the queries."""
    num_lead = encoded.spans["text"].stop
    if operator == "gated":
        return _gated_mass(weights, encoded, num_lead)
    if operator in ("concat", "channel"):
        spans = list(encoded.spans.values())
        return torch.stack([torch.stack([w[:, :, 0, s].sum(-1) for s in spans], -1) for w in weights])
    if operator == "late":  # vit's layers, then clip's
        half = len(weights) // 2
        branches = []
        for column, layers in ((2, weights[:half]), (3, weights[half:])):
            mass = torch.zeros(half, *weights[0].shape[:2], 4)
            for layer, w in enumerate(layers):
                row = w[:, :, 0]
                for place, part in ((0, row[..., :1]), (1, row[..., 1:num_lead]), (column, row[..., num_lead:])):
                    mass[layer, ..., place] = part.sum(-1)
            branches.append(mass)
        return (branches[0] + branches[1]) / 2
    num_vit = features["vit"].tokens.shape[1]
    if operator == "coattention":  # per layer: text on itself, visual on itself, text on visual, visual on text
        rows = [w[:, :, 0] for w in weights[2::4]]
    else:  # the reader's two calls come first
        rows = [w.mean(2) for w in weights[:2]]
    return torch.stack([torch.stack([r[..., :num_vit].sum(-1), r[..., num_vit:].sum(-1)], -1) for r in rows])


def _gated_mass(weights: list[Tensor], encoded: Encoded, num_lead: int) -> Tensor:
    """Each mixed token's weight goes to its encoders by their gates; only clip has a token of the whole image."""
    assert encoded.weight is not None
    gates = encoded.weight.values
    layers = []
    for w in weights:
        row = w[:, :, 0]
        whole, cells = row[..., num_lead], row[..., num_lead + 1 :]
        # The cells that clip's masked tokens leave to vit alone: those over its 3x3 tokens 4, 5 and 6.
        both = torch.ones(3, 49)
        shares = torch.stack([gates[:, :1] * both, gates[:, 1:] * both], -1)
        for cell in range(49):
            y, x = divmod(cell, 7)
            under = {3 * r + c for r in _under(y) for c in _under(x)}
            if under <= {3, 4, 5}:  # tokens 4, 5, 6 behind the prefix are grid cells 3, 4, 5
                shares[1, cell] = torch.tensor([1.0, 0.0])
        mass = [row[..., 0], row[..., 1:num_lead].sum(-1)]
        mass.append(torch.einsum("bhm,bm->bh", cells, shares[..., 0]))
        mass.append(torch.einsum("bhm,bm->bh", cells, shares[..., 1]) + whole)
        layers.append(torch.stack(mass, -1))
    return torch.stack(layers)


def _under(cell: int) -> set[int]:
    """Which thirds a seventh overlaps: 0, 1 | 2 straddles | 3 | 4 straddles | 5, 6."""
    return [{0}, {0}, {0, 1}, {1}, {1, 2}, {2}, {2}][cell]
