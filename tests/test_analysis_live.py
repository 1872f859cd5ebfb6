"""Attribution of live models: coalitions against captum, attention against the model's own and by hand, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import FeatureAblation, ShapleyValues
from fusion_batch import TEXTS, WIDTHS, batch
from torch import Tensor, nn

from analysis.attention import disagreements
from analysis.coalition_values import CoalitionSpace
from analysis.errors import LiveModelError
from analysis.gradients import integrated_gradients, layer_relevance
from analysis.live import live_leave_one_out, live_shapley, live_table
from analysis.live_attention import live_attention
from fusion.config import FusionConfig
from fusion.model import FusionModel
from fusion.text import build_tokenizer
from fusion.types import Coalition, Encoded, FeatureMap, Features

ALIASES = tuple(WIDTHS)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FusionConfig:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TEXTS, folder=folder)
    return FusionConfig(width=32, layers=2, heads=4, text="scratch", tokenizer=str(folder), max_text=16)


@pytest.fixture(scope="module")
def model(config: FusionConfig) -> FusionModel:
    return FusionModel(config, WIDTHS).eval()


def by_presence(model: FusionModel) -> Sequence[object]:
    """captum's view of the same game: a matrix of who is present goes in; tokens leave in fact."""

    def forward(presence: Tensor) -> Tensor:
        assert (presence == presence[0]).all()
        coalition = tuple(a for a, here in zip(ALIASES, presence[0].tolist(), strict=True) if here)
        with torch.no_grad():
            return model.match(TEXTS, batch(), coalition).double()

    return forward


def test_shapley_and_leave_one_out_agree_with_captum_on_the_same_model(model: FusionModel) -> None:
    def value(coalition: Coalition) -> Tensor:
        return model.match(TEXTS, batch(), coalition)

    presence = torch.ones(3, 3, dtype=torch.float64)
    theirs = ShapleyValues(by_presence(model)).attribute(presence, baselines=0.0)
    np.testing.assert_allclose(live_shapley(value, ALIASES), theirs.numpy(), atol=1e-6)
    theirs = FeatureAblation(by_presence(model)).attribute(presence, baselines=0.0)
    np.testing.assert_allclose(live_leave_one_out(value, ALIASES), theirs.numpy(), atol=1e-6)
    space = CoalitionSpace(ALIASES)
    table = live_table(value, space)
    assert np.abs(table @ space.shapley().T).max() > 1e-3  # the agreement is not one of zeros
    np.testing.assert_allclose((table @ space.shapley().T).sum(1), table[:, -1] - table[:, 0], atol=1e-9)


def test_attention_computed_again_is_the_model_s_own(model: FusionModel) -> None:
    found = live_attention(model, TEXTS, batch(), ALIASES)
    own = model.encode(TEXTS, batch(), ALIASES, attention="mass").attention
    assert own is not None and found.names == own.names
    torch.testing.assert_close(found.mass, own.mass, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.token_share, own.token_share)
    for share in (found.mass.sum(-1), found.norm_weighted.sum(-1), found.blocks.sum(-1), found.rollout.sum(-1)):
        torch.testing.assert_close(share, torch.ones_like(share))
    # The CLS query is a span of its own, so its block is the mean mass.
    torch.testing.assert_close(found.blocks[:, :, 0], found.mass.mean(dim=1), atol=1e-6, rtol=0)


def test_masked_tokens_draw_no_attention(model: FusionModel) -> None:
    features = batch()
    nothing = replace(features["keys"], valid=torch.zeros(3, 4, dtype=torch.bool))
    found = live_attention(model, TEXTS, {**features, "keys": nothing}, ALIASES)
    column = found.names.index("keys")
    assert found.mass[..., column].max() == 0 and found.blocks[..., column].max() == 0


class Toy(nn.Module):
    """CLS and one token of each of two encoders; attention scores and values as given, added to the stream."""

    def __init__(self, scores: Sequence[Tensor], values: Tensor) -> None:
        super().__init__()
        self.scores, self.values = scores, values

    def encode(self, text: Sequence[str] | None, features: FeatureMap | None, coalition: Coalition) -> Encoded:
        states = self.values
        for scores in self.scores:
            # Keys are unit vectors, so that a query's scores are its coordinates.
            query = (scores * 3**0.5)[None, None]
            states = states + F.scaled_dot_product_attention(query, torch.eye(3)[None, None], self.values[None])[0]
        valid = torch.ones(1, 3, dtype=torch.bool)
        spans = {"cls": slice(0, 1), "a": slice(1, 2), "b": slice(2, 3)}
        return Encoded(states, valid, spans, states[:, :1])


HALF = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4], [0.1, 0.1, 0.8]]))
DECOY = torch.log(torch.tensor([[0.1, 0.1, 0.8], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4]]))


def test_rollout_and_blocks_by_hand() -> None:
    found = live_attention(Toy([HALF, DECOY], torch.eye(3)[None]), None, None, ("a", "b"))
    torch.testing.assert_close(found.mass[:, 0, 0], torch.stack([HALF[0], DECOY[0]]).exp())
    torch.testing.assert_close(found.blocks[0, 0], HALF.exp())
    expected = ((DECOY.exp() + torch.eye(3)) / 2) @ ((HALF.exp() + torch.eye(3)) / 2)
    torch.testing.assert_close(found.rollout[0], expected[0])
    assert found.lift(found.mass)["b"] == pytest.approx(((0.25 + 0.8) / 1.4) / 0.5)


def test_a_decoy_fools_attention_and_not_its_norm_nor_ablation() -> None:
    values = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0]]])  # b is looked at and has nothing to say
    toy = Toy([DECOY], values)
    found = live_attention(toy, None, None, ("a", "b"))
    lift, weighted = found.lift(found.mass), found.lift(found.norm_weighted)
    assert lift["b"] > 1.7 and weighted["b"] == 0 and weighted["a"] == pytest.approx(2)
    leaves = {"a": {"value": 0.1, "ci95": [0.05, 0.15], "n": 9}, "b": {"value": 0.0, "ci95": [-0.01, 0.01], "n": 9}}
    looked = {alias: {"lift": {"value": value, "ci95": None, "n": 9}} for alias, value in lift.items()}
    assert [(flag["encoder"], flag["flag"]) for flag in disagreements(looked, leaves)] == [
        ("a", "adds, hardly looked at"),
        ("b", "looked at, not shown to add"),
    ]


def test_encoders_kept_apart_have_no_joint_attention(config: FusionConfig) -> None:
    late = FusionModel(replace(config, operator="late"), WIDTHS).eval()
    with pytest.raises(LiveModelError, match="no self-attention over the stream of .* `concat` has"):
        live_attention(late, TEXTS, batch(), ALIASES)


def test_gradients_are_complete_and_conductance_of_adapters_is_integrated_gradients(model: FusionModel) -> None:
    def score(features: FeatureMap, rows: Tensor) -> Tensor:
        return model.match([TEXTS[row] for row in rows.tolist()], features, ALIASES)

    features = batch()
    found = integrated_gradients(score, features, steps=64)
    assert found.names == ALIASES and found.values.shape == (3, 3)
    assert found.values.abs().max() > 1e-3 and found.delta.abs().max() < 1e-4
    adapters = {alias: model.adapters[f"of_{alias}"] for alias in ALIASES}
    through = layer_relevance(score, features, adapters, steps=64)
    torch.testing.assert_close(through.values, found.values, atol=1e-4, rtol=0)
    with pytest.raises(LiveModelError, match="no layer is given for encoder 'keys'; given: vit, clip"):
        layer_relevance(score, features, {alias: adapters[alias] for alias in ("vit", "clip")})


def test_gradients_of_a_linear_score_by_hand() -> None:
    tokens = torch.arange(6.0).reshape(1, 2, 3)
    features = {"a": Features(tokens, torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))}
    zero = {"a": replace(features["a"], tokens=torch.zeros(1, 2, 3))}

    def score(given: FeatureMap, rows: Tensor) -> Tensor:
        return 2 * given["a"].tokens.sum((1, 2))

    found = integrated_gradients(score, features, baseline=zero, steps=5)
    assert found.values.tolist() == [[pytest.approx(30)]] and abs(found.delta.item()) < 1e-4


@pytest.mark.parametrize("padding", [50.0, float("nan")])
def test_gradients_do_not_read_padding(model: FusionModel, padding: float) -> None:
    def score(features: FeatureMap, rows: Tensor) -> Tensor:
        return model.match([TEXTS[row] for row in rows.tolist()], features, ALIASES)

    features = batch()
    keys = features["keys"]
    assert not keys.valid.all()
    padded = replace(keys, tokens=keys.tokens.masked_fill(~keys.valid[..., None], padding))
    expected, found = (integrated_gradients(score, {**features, "keys": one}, steps=4) for one in (keys, padded))
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(found.delta, expected.delta)
