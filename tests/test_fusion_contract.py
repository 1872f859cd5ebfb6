"""What every operator in the table must honour; its attention mass has a file of its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fusion_batch import NUM_TOKENS, TEXTS, WIDTHS, batch, close
from fusion_facts import FACTS, facts_of, small_config
from torch import Tensor

from fusion import OPERATORS, OPTIONS
from fusion.config import FusionConfig
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.operators import operator_class
from fusion.types import Coalition, Features, all_coalitions, coalition_name
from fusion.ve_dropout import Fill, VEDropout

ALIASES = tuple(WIDTHS)
COALITIONS = all_coalitions(ALIASES)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FusionConfig:
    return small_config(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=sorted(OPERATORS))
def model(request: pytest.FixtureRequest, config: FusionConfig) -> FusionModel:
    return FusionModel(replace(config, operator=request.param), WIDTHS).eval()


@pytest.fixture(scope="module", params=sorted(OPERATORS))
def post_norm(request: pytest.FixtureRequest) -> FusionModel:
    """On a trunk that normalises after each part: the shipped one."""
    return FusionModel(FusionConfig(operator=request.param), WIDTHS).eval()


def test_every_operator_has_its_facts_and_options() -> None:
    """Fails when an operator is added without them; the tests below then run on it by themselves."""
    for name in OPERATORS:
        facts_of(name)
    assert set(FACTS) == set(OPERATORS) == set(OPTIONS)
    for name in OPERATORS:
        assert len(operator_class(name).absent) > 20, name
        assert {"none", "mass"} <= set(operator_class(name).attentions), name


def test_an_operator_without_facts_is_told_where_they_belong() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"'mine' has no facts: add .* to FACTS in .*fusion_facts\.py"):
        facts_of("mine")


@pytest.mark.parametrize("coalition", COALITIONS, ids=coalition_name)
@pytest.mark.parametrize("text", [TEXTS, None], ids=["text", "no-text"])
def test_shapes_and_spans(model: FusionModel, coalition: Coalition, text: list[str] | None) -> None:
    if text is None and not coalition:
        with pytest.raises(FusionError, match="nothing to encode"):
            model.encode(text, batch(), coalition)
        return
    mixed = facts_of(model.config.operator).mixed
    encoded = model.encode(text, batch(), coalition)
    assert encoded.pooled.shape == (3, model.operator.num_branches(len(coalition)), 32)
    visual = coalition if mixed is None else (coalition_name(coalition),) * bool(coalition)
    assert list(encoded.spans) == ["cls", *(["text"] if text else []), *visual]
    assert encoded.states.shape[:2] == encoded.valid.shape
    covered = [i for span in encoded.spans.values() for i in range(span.start, span.stop)]
    assert covered == list(range(encoded.states.shape[1]))
    for name in visual:
        length = encoded.spans[name].stop - encoded.spans[name].start
        assert length == (NUM_TOKENS[name] if mixed is None else mixed)
    if text:
        text_lengths = encoded.valid[:, encoded.spans["text"]].sum(1).tolist()
        assert text_lengths == [3, 5, 1]  # words and [SEP]


def drop_equals_mask(model: FusionModel) -> None:
    masked = batch()
    masked["clip"] = replace(masked["clip"], valid=torch.zeros(3, 10, dtype=torch.bool))
    for rest in (("vit", "keys"), ()):
        others = {alias: features for alias, features in masked.items() if alias in ("clip", *rest)}
        coalition = tuple(alias for alias in ALIASES if alias in others)
        close(model.encode(TEXTS, batch(), rest).pooled, model.encode(TEXTS, others, coalition).pooled)


def test_dropping_an_encoder_equals_masking_it(model: FusionModel) -> None:
    drop_equals_mask(model)


def test_contract_on_a_post_norm_trunk(post_norm: FusionModel) -> None:
    """Dropping equals masking, order changes nothing, and asking for attention changes nothing."""
    drop_equals_mask(post_norm)
    permuted = FusionModel(post_norm.config, dict(reversed(WIDTHS.items()))).eval()
    close(post_norm.match(TEXTS, batch(), ALIASES), permuted.match(TEXTS, batch(), ALIASES[::-1]))
    plain = post_norm.encode(TEXTS, batch(), ALIASES)
    asked = post_norm.encode(TEXTS, batch(), ALIASES, attention="mass")
    assert torch.equal(plain.pooled, asked.pooled) and asked.attention is not None
    close(asked.attention.mass.sum(-1), torch.ones(asked.attention.mass.shape[:-1]))
    assert (asked.pooled[0] - asked.pooled[1]).abs().max() > 1e-2


def test_dropping_tokens_equals_masking_them(model: FusionModel) -> None:
    """Also when what is masked holds NaN."""
    features = batch()["clip"]
    keep = torch.tensor([0, 3, 4, 8])
    dropped = Features(features.tokens[:, keep], features.boxes[:, keep], features.valid[:, keep])
    away = torch.ones(10, dtype=torch.bool)
    away[keep] = False
    poisoned = Features(
        features.tokens.masked_fill(away[:, None], torch.nan),
        features.boxes.masked_fill(away[:, None], torch.nan),
        ~away.expand(3, 10),
    )
    less = model.encode(TEXTS, {**batch(), "clip": dropped}, ("vit", "clip"), attention="mass")
    masked = model.encode(TEXTS, {**batch(), "clip": poisoned}, ("vit", "clip"), attention="mass")
    close(less.pooled, masked.pooled)
    assert less.attention is not None and masked.attention is not None
    assert less.weight is not None and masked.weight is not None
    close(less.attention.mass, masked.attention.mass)
    close(less.weight.values, masked.weight.values)
    for name, span in less.spans.items():
        there = masked.states[:, masked.spans[name]]
        close(less.states[:, span][less.valid[:, span]], there[masked.valid[:, masked.spans[name]]])


def test_padding_of_texts_and_regions_has_no_influence(model: FusionModel) -> None:
    together = model.encode(TEXTS, batch(), ("vit", "clip", "keys")).pooled
    for i, text in enumerate(TEXTS):
        alone = {alias: features.rows(slice(i, i + 1)) for alias, features in batch().items()}
        regions = alone["keys"]
        kept = regions.valid[0]
        alone["keys"] = Features(regions.tokens[:, kept], regions.boxes[:, kept], regions.valid[:, kept])
        close(together[i : i + 1], model.encode([text], alone, ("vit", "clip", "keys")).pooled)


@pytest.mark.parametrize("coalition", COALITIONS, ids=coalition_name)
def test_absent_encoders_have_no_influence_and_get_no_gradient(model: FusionModel, coalition: Coalition) -> None:
    def poison(alias: str, features: Features) -> Features:
        if alias in coalition:
            return features
        return replace(features, tokens=features.tokens * torch.nan, boxes=features.boxes * torch.nan)

    poisoned = {alias: poison(alias, features) for alias, features in batch().items()}
    only_present = {alias: features for alias, features in batch().items() if alias in coalition}
    found = model.encode(TEXTS, poisoned, coalition)
    assert torch.equal(found.pooled, model.encode(TEXTS, only_present, coalition).pooled)
    model.zero_grad()
    (found.pooled * torch.randn(32, generator=torch.Generator().manual_seed(1))).sum().backward()
    for alias in WIDTHS:
        for name, parameter in model.adapters[f"of_{alias}"].named_parameters():
            if alias in coalition:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
            else:
                assert parameter.grad is None, name
    model.zero_grad()


def test_absent_adapters_do_not_move_nor_decay(config: FusionConfig) -> None:
    """Also after steps in which they were present, so that the optimizer has momentum for them."""
    for operator in OPERATORS:
        model = FusionModel(replace(config, operator=operator), WIDTHS)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        for coalition in (ALIASES, ("vit",)):
            before = {name: value.detach().clone() for name, value in model.adapters.named_parameters()}
            optimizer.zero_grad()
            model.match(TEXTS, batch(), coalition).square().sum().backward()
            optimizer.step()
            for name, value in model.adapters.named_parameters():
                moved = not torch.equal(value, before[name])
                assert moved == (name.split(".")[0].removeprefix("of_") in coalition), (operator, name)


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_fills_are_constants(config: FusionConfig, fill: Fill) -> None:
    """Whatever the absent encoder holds, its constant takes part like features, and its adapter learns nothing."""
    dropout = VEDropout(WIDTHS, fill=fill)
    for seed in (1, 2):
        dropout.observe(batch(seed))
    fills = dropout.fills(("vit",), batch_size=3)
    assert set(fills) == {"clip", "keys"}
    bad = {a: replace(f, tokens=f.tokens * torch.nan, boxes=f.boxes * torch.nan) for a, f in batch().items()}
    poisoned = {**bad, "vit": batch()["vit"]}
    for operator in OPERATORS:
        model = FusionModel(replace(config, operator=operator), WIDTHS)
        found = model.encode(TEXTS, poisoned, ("vit",), fills=fills)
        alone = model.encode(TEXTS, {"vit": batch()["vit"]}, ("vit",), fills=fills)
        constant = model.encode(TEXTS, {**fills, "vit": batch()["vit"]}, ALIASES)
        assert torch.equal(found.pooled, alone.pooled) and torch.equal(found.pooled, constant.pooled), operator
        assert list(found.spans) == list(constant.spans)
        dropped = model.encode(TEXTS, {"vit": batch()["vit"]}, ("vit",)).pooled
        assert (found.pooled.mean(1) - dropped.mean(1)).abs().max() > 1e-3, operator
        (found.pooled * torch.randn(32)).sum().backward()
        for name, parameter in model.adapters.named_parameters():
            assert (parameter.grad is not None) == name.startswith("of_vit"), (operator, name)
        assert model.encode(TEXTS, None, (), fills=dropout.fills((), batch_size=3)).pooled.isfinite().all()


def test_fills_of_present_or_unknown_encoders_are_refused(model: FusionModel) -> None:
    for fills, message in (({"vit": batch()["vit"]}, "'vit', which is present"), ({"vat": batch()["vit"]}, "'vat'")):
        with pytest.raises(FusionError, match=message):
            model.encode(TEXTS, batch(), ("vit",), fills=fills)


def test_present_features_and_text_matter(model: FusionModel) -> None:
    """So that none of the equalities above holds for want of any influence."""
    reference = model.encode(TEXTS, batch(), ("clip", "keys")).pooled
    for alias, part in (("clip", "tokens"), ("keys", "tokens"), ("keys", "boxes")):
        changed = replace(batch()[alias], **{part: getattr(batch(1)[alias], part)})
        other = model.encode(TEXTS, {**batch(), alias: changed}, ("clip", "keys")).pooled
        assert (other - reference).abs().amax(dim=(1, 2)).min() > 1e-3, (alias, part)
    other = model.encode(["square", "circle", "red"], batch(), ("clip", "keys")).pooled
    assert (other - reference).abs().amax(dim=(1, 2)).min() > 1e-3


def test_order_of_encoders_does_not_matter(model: FusionModel) -> None:
    """The same seed gives the same model whatever the order, and the same states, weights and logits."""
    permuted = FusionModel(model.config, dict(reversed(WIDTHS.items()))).eval()
    assert all(torch.equal(value, permuted.state_dict()[name]) for name, value in model.state_dict().items())
    one = model.encode(TEXTS, batch(), ALIASES, attention="mass")
    two = permuted.encode(TEXTS, batch(), ALIASES[::-1], attention="mass")
    close(one.pooled.mean(1), two.pooled.mean(1))
    for name, span in one.spans.items():
        other = name if name in two.spans else coalition_name(ALIASES[::-1])
        valid = one.valid[:, span]
        close(one.states[:, span][valid], two.states[:, two.spans[other]][valid])
    assert one.weight is not None and two.weight is not None and two.weight.names == ALIASES[::-1]
    close(one.weight.values, two.weight.values.flip(1))
    close(model.match(TEXTS, batch(), ALIASES), permuted.match(TEXTS, batch(), ALIASES[::-1]))


HALF = {torch.bfloat16: 8.0, torch.float16: 1.0}
"""Tolerances in units of fp16's: bf16 keeps three bits less of each number."""


@pytest.mark.parametrize("half", HALF, ids=str)
@pytest.mark.parametrize("coalition", [ALIASES, ("vit", "clip"), ()], ids=coalition_name)
def test_half_and_full_precision_agree(model: FusionModel, half: torch.dtype, coalition: Coalition) -> None:
    """Under autocast: pooled states, attention mass, matching, and the whole gradient. Measured: a third of this."""

    def found() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        model.zero_grad()
        encoded = model.encode(TEXTS, batch(), coalition, attention="mass")
        logits = model.match(TEXTS, batch(), coalition)
        (encoded.pooled.float() * direction).sum().add(logits.float().sum()).backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        assert encoded.attention is not None
        return encoded.pooled.float(), encoded.attention.mass.float(), logits.float(), torch.cat(gradients)

    direction, unit = torch.randn(32, generator=torch.Generator().manual_seed(2)), HALF[half]
    full = found()
    with torch.autocast("cpu", dtype=half):
        less = found()
    model.zero_grad()
    for one, other, tolerance in zip(full, less, (0.003, 0.001, 0.002), strict=False):
        torch.testing.assert_close(other, one, atol=unit * tolerance, rtol=0)
    assert full[0].std() > 0.1  # so that the tolerance is small beside what it is of
    assert (less[3] - full[3]).norm() < 0.001 * unit * full[3].norm()


@pytest.mark.parametrize("half", HALF, ids=str)
def test_half_and_full_weights_agree(model: FusionModel, half: torch.dtype) -> None:
    reference = model.encode(TEXTS, batch(), ("vit", "clip")).pooled
    found = FusionModel(model.config, WIDTHS).eval().to(half).encode(TEXTS, batch(), ("vit", "clip"))
    assert found.pooled.dtype == half
    torch.testing.assert_close(found.pooled.float(), reference, atol=0.008 * HALF[half], rtol=0)


def test_saved_and_loaded_agree_exactly(model: FusionModel, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    model.save(tmp_path / "saved")
    loaded = FusionModel.load(tmp_path / "saved")
    recorded = json.loads((tmp_path / "saved" / "fusion.json").read_text())["operator"]
    assert recorded == {"name": model.config.operator, **model.operator.describe()}
    assert set(recorded) == {"name", *OPTIONS[model.config.operator]}
    assert loaded.config == model.config and loaded.widths == model.widths and loaded.aliases == model.aliases
    assert torch.equal(
        model.encode(TEXTS, batch(), ("vit", "keys")).pooled,
        loaded.encode(TEXTS, batch(), ("vit", "keys")).pooled,
    )
    assert torch.equal(model.match(TEXTS, batch(), ("clip",)), loaded.match(TEXTS, batch(), ("clip",)))


def test_match_is_one_logit_a_pair_averaged_over_branches(model: FusionModel) -> None:
    encoded = model.encode(TEXTS, batch(), ("vit", "clip"))
    logits = model.match(TEXTS, batch(), ("vit", "clip"))
    assert logits.shape == (3,)
    by_branch = [model.match_head(encoded.pooled[:, k])[:, 0] for k in range(encoded.pooled.shape[1])]
    close(logits, torch.stack(by_branch).mean(0))


def test_the_documentation_says_what_each_operator_does() -> None:
    page = (Path(__file__).parents[1] / "docs" / "fusion.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(OPERATORS)
    for name, _, absent, options, _, _, weight in rows:
        operator = name.strip("`")
        assert absent == operator_class(operator).absent and weight == facts_of(operator).weight
        assert options == (", ".join(f"`{option}`" for option in OPTIONS[operator]) or "–")
