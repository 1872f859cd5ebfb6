"""Attention mass of every operator against a softmax written out, and the names under which it is reported."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fusion_batch import TEXTS, WIDTHS, batch, close
from fusion_facts import FACTS, small_config
from torch import Tensor

from fusion import OPERATORS
from fusion.config import FusionConfig
from fusion.model import FusionModel
from fusion.types import Coalition, Encoded, Features, coalition_name

NUM_LEAD = 6  # CLS, and the longest text with its [SEP]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FusionConfig:
    return small_config(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=sorted(OPERATORS))
def model(request: pytest.FixtureRequest, config: FusionConfig) -> FusionModel:
    return FusionModel(replace(config, operator=request.param), WIDTHS).eval()


class Explicit:
    """Stands in for the fused kernel, with the softmax written out; keeps the weights of every call."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = exponentials / exponentials.sum(-1, keepdim=True)
        if values.shape[-1] == query.shape[-1]:  # not the indicator's turn
            self.weights.append(weights.detach())
        return weights @ values


def expected_mass(operator: str, weights: list[Tensor], encoded: Encoded, features: Mapping[str, Features]) -> Tensor:
    """Layers b h e from the explicit weights: those of CLS, or the mean over the queries that read."""
    if operator in ("concat", "channel"):
        spans = list(encoded.spans.values())
        return torch.stack([torch.stack([w[:, :, 0, s].sum(-1) for s in spans], -1) for w in weights])
    if operator == "late":  # vit's two layers, then clip's two
        ends = (0, 1, NUM_LEAD)
        branches = []
        for column, layers in ((2, weights[:2]), (3, weights[2:])):
            mass = torch.zeros(2, 3, 4, 4)
            for layer, w in enumerate(layers):
                row = w[:, :, 0]
                parts = [row[..., : ends[1]], row[..., ends[1] : ends[2]], row[..., ends[2] :]]
                for place, part in zip((0, 1, column), parts, strict=True):
                    mass[layer, ..., place] = part.sum(-1)
            branches.append(mass)
        return (branches[0] + branches[1]) / 2
    num_vit = features["vit"].tokens.shape[1]
    if operator == "coattention":  # per layer: text on itself, visual on itself, text on visual, visual on text
        rows = [w[:, :, 0] for w in weights[2::4]]
    else:  # the reader's two calls come first
        rows = [w.mean(2) for w in weights[:2]]
    return torch.stack([torch.stack([r[..., :num_vit].sum(-1), r[..., num_vit:].sum(-1)], -1) for r in rows])


def test_attention_mass_equals_the_explicit_softmax(model: FusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = model.config.operator
    features = {alias: batch()[alias] for alias in ("vit", "clip")}
    features["clip"].valid[1, 4:7] = False
    plain = model.encode(TEXTS, features, ("vit", "clip"))
    asked = model.encode(TEXTS, features, ("vit", "clip"), attention="mass")
    assert plain.attention is None and plain.weight is None and torch.equal(plain.pooled, asked.pooled)
    explicit = Explicit()
    monkeypatch.setattr(F, "scaled_dot_product_attention", explicit)
    written_out = model.encode(TEXTS, features, ("vit", "clip"), attention="mass")
    close(written_out.pooled, asked.pooled)
    report, facts = asked.attention, FACTS[operator]
    assert report is not None and report.query == facts.query and report.names == facts.mass_names
    assert report.mass.shape == (2, 3, 4, len(facts.mass_names)) and not report.mass.requires_grad
    if operator == "gated":
        expected = gated_mass(model, explicit.weights, asked, features)
    else:
        expected = expected_mass(operator, explicit.weights, asked, features)
    close(report.mass, expected)
    close(report.mass.sum(-1), torch.ones(2, 3, 4))
    close(report.token_share.sum(), torch.tensor(1.0))
    assert asked.weight is not None and asked.weight.kind == facts.weight
    assert asked.weight.names == ("vit", "clip") and (asked.weight.values >= 0).all()
    close(asked.weight.values.sum(1), torch.ones(3))


def gated_mass(model: FusionModel, weights: list[Tensor], encoded: Encoded, features: Mapping[str, Features]) -> Tensor:
    """Each mixed token's weight goes to its encoders by their gates; only clip has a token of the whole image."""
    assert encoded.weight is not None
    gates = encoded.weight.values
    layers = []
    for w in weights:
        row = w[:, :, 0]
        whole, cells = row[..., NUM_LEAD], row[..., NUM_LEAD + 1 :]
        # The cells that clip's masked tokens leave to vit alone: those over its 3x3 tokens 4, 5 and 6.
        both = torch.ones(3, 49)
        shares = torch.stack([gates[:, :1] * both, gates[:, 1:] * both], -1)
        for cell in range(49):
            y, x = divmod(cell, 7)
            under = {3 * r + c for r in _under(y) for c in _under(x)}
            if under <= {3, 4, 5}:  # tokens 4, 5, 6 behind the prefix are grid cells 3, 4, 5
                shares[1, cell] = torch.tensor([1.0, 0.0])
        mass = [row[..., 0], row[..., 1:NUM_LEAD].sum(-1)]
        mass.append(torch.einsum("bhm,bm->bh", cells, shares[..., 0]))
        mass.append(torch.einsum("bhm,bm->bh", cells, shares[..., 1]) + whole)
        layers.append(torch.stack(mass, -1))
    return torch.stack(layers)


def _under(cell: int) -> set[int]:
    """Which thirds a seventh overlaps: 0, 1 | 2 straddles | 3 | 4 straddles | 5, 6."""
    return [{0}, {0}, {0, 1}, {1}, {1, 2}, {2}, {2}][cell]


@pytest.mark.parametrize("coalition", [(), ("keys",)], ids=coalition_name)
@pytest.mark.parametrize("text", [TEXTS, None], ids=["text", "no-text"])
def test_attention_of_few_streams(model: FusionModel, coalition: Coalition, text: list[str] | None) -> None:
    """Text only, image only and both: the names are the spans there are, and shares still sum to 1."""
    if text is None and not coalition:
        return
    encoded = model.encode(text, batch(), coalition, attention="mass")
    report, weight = encoded.attention, encoded.weight
    assert report is not None and weight is not None and weight.names == coalition
    own = "cls" in FACTS[model.config.operator].mass_names
    leads = ("cls", "text") if text else ("cls",)
    assert report.names == ((*leads, *coalition) if own else coalition)
    assert report.mass.shape == (2, 3, 4, len(report.names)) and report.token_share.shape == (len(report.names),)
    if report.names:
        close(report.mass.sum(-1), torch.ones(2, 3, 4))
    if coalition:
        close(weight.values, torch.ones(3, 1))
