"""Attention mass of every operator against a softmax written out, its names, and what finding it keeps in memory."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from fusion_batch import TEXTS, WIDTHS, batch, close
from fusion_explicit import mass_and_weights
from fusion_facts import facts_of, small_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fusion import OPERATORS
from fusion.config import FusionConfig
from fusion.model import FusionModel
from fusion.reading import Asked, span_mass
from fusion.types import Coalition, coalition_name

NUM_LEAD = 6  # CLS, and the longest text with its [SEP]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FusionConfig:
    return small_config(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=sorted(OPERATORS))
def model(request: pytest.FixtureRequest, config: FusionConfig) -> FusionModel:
    return FusionModel(replace(config, operator=request.param), WIDTHS).eval()


def test_attention_mass_equals_the_explicit_softmax(model: FusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, _ = mass_and_weights(model, TEXTS, monkeypatch)
    report, facts = asked.attention, facts_of(model.config.operator)
    assert report is not None and report.query == facts.query and report.names == facts.mass_names
    assert report.mass.shape == (2, 3, 4, len(facts.mass_names))
    close(report.token_share.sum(), torch.tensor(1.0))
    assert asked.weight is not None and asked.weight.kind == facts.weight
    assert asked.weight.names == ("vit", "clip") and (asked.weight.values >= 0).all()
    close(asked.weight.values.sum(1), torch.ones(3))


def test_asking_changes_nothing_else(model: FusionModel) -> None:
    plain = model.encode(TEXTS, batch(), ("vit", "clip"))
    asked = model.encode(TEXTS, batch(), ("vit", "clip"), attention="mass")
    assert plain.attention is None and plain.weight is None
    assert torch.equal(plain.pooled, asked.pooled) and torch.equal(plain.states, asked.states)


class Shapes(TorchDispatchMode):
    """Records the shape of everything computed, inside of composite operators too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.seen |= {tuple(part.shape) for part in tree_leaves(found) if isinstance(part, Tensor)}
        return found


@pytest.mark.parametrize("num_spans", [2, 7])
@pytest.mark.parametrize("num_queries", [1, 37])
def test_mass_of_readings_keeps_no_weights(num_queries: int, num_spans: int) -> None:
    """Fewer and more spans than a head's four channels; 41 queries read 53 tokens, some not all, and one is padding."""
    generator = torch.Generator().manual_seed(0)
    query, keys = (torch.randn(2, 3, n, 4, generator=generator) for n in (41, 53))
    mask = torch.rand(2, 1, 41, 53, generator=generator) < 0.8
    asked = Asked(torch.ones(2, num_queries, dtype=torch.bool), torch.rand(2, 53, num_spans, generator=generator))
    asked.queries[1, 1:5] = False
    with Shapes() as shapes:
        found = span_mass(query, keys, mask, asked)
    assert (2, 3, num_queries, 4) in shapes.seen
    assert not any(len(shape) > 2 and shape[1] == 3 and shape[-1] == 53 for shape in shapes.seen)
    weights = (query @ keys.transpose(-1, -2) / 2).masked_fill(~mask, -torch.inf).softmax(-1)
    mass = weights @ asked.spans[:, None]
    for row in range(2):
        close(found[row], mass[row, :, :num_queries][:, asked.queries[row]].mean(1))


@pytest.mark.parametrize("operator", ["coattention", "resampler", "window"])
def test_operators_that_read_keep_no_weights(config: FusionConfig, operator: str) -> None:
    """Nothing computed has a value for each query and each of the 14 visual tokens, for each head."""
    model = FusionModel(replace(config, operator=operator), WIDTHS).eval()
    with Shapes() as shapes:
        model.encode(TEXTS, batch(), ("vit", "clip"), attention="mass")
    num_queries = {"coattention": NUM_LEAD, "resampler": 32, "window": 49}[operator]
    assert not any(math.prod(shape) == 3 * 4 * num_queries * 14 and shape[-1] == 14 for shape in shapes.seen)
    rows = 1 if operator == "coattention" else num_queries
    assert (3, 4, rows, 8) in shapes.seen  # the mass of CLS alone in coattention, of every query elsewhere


@pytest.mark.parametrize("coalition", [(), ("keys",)], ids=coalition_name)
@pytest.mark.parametrize("text", [TEXTS, None], ids=["text", "no-text"])
def test_attention_of_few_streams(model: FusionModel, coalition: Coalition, text: list[str] | None) -> None:
    """Text only, image only and both: the names are the spans there are, and shares still sum to 1."""
    if text is None and not coalition:
        return
    encoded = model.encode(text, batch(), coalition, attention="mass")
    report, weight = encoded.attention, encoded.weight
    assert report is not None and weight is not None and weight.names == coalition
    own = "cls" in facts_of(model.config.operator).mass_names
    leads = ("cls", "text") if text else ("cls",)
    assert report.names == ((*leads, *coalition) if own else coalition)
    assert report.mass.shape == (2, 3, 4, len(report.names)) and report.token_share.shape == (len(report.names),)
    if report.names:
        close(report.mass.sum(-1), torch.ones(2, 3, 4))
    if coalition:
        close(weight.values, torch.ones(3, 1))
