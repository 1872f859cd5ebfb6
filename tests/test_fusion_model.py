"""The contract of the fusion model: coalitions, masks, order, gradients, mass, settings, files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from fusion import OPERATORS
from fusion.config import FusionConfig
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.operators import operator_class
from fusion.text import build_tokenizer
from fusion.types import Coalition, FeatureMap, Features, all_coalitions, coalition_name

WIDTHS = {"vit": 6, "clip": 10, "keys": 4}  # "keys" is also a method of ModuleDict
GRIDS = {"vit": 2, "clip": 3, "keys": 1}
TEXTS = ["red circle", "a small blue square", ""]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FusionConfig:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TEXTS, folder=folder)
    return FusionConfig(width=32, layers=2, heads=4, text="scratch", tokenizer=str(folder), max_text=16)


@pytest.fixture(scope="module", params=sorted(OPERATORS))
def model(request: pytest.FixtureRequest, config: FusionConfig) -> FusionModel:
    return FusionModel(replace(config, operator=request.param), WIDTHS).eval()


def batch(seed: int = 0) -> dict[str, Features]:
    generator = torch.Generator().manual_seed(seed)

    def one(alias: str) -> Features:
        n = GRIDS[alias] ** 2
        return Features(
            torch.randn(3, n, WIDTHS[alias], generator=generator),
            torch.rand(3, n, 4, generator=generator),
            torch.ones(3, n, dtype=torch.bool),
        )

    return {alias: one(alias) for alias in WIDTHS}


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


@pytest.mark.parametrize("coalition", all_coalitions(tuple(WIDTHS)), ids=coalition_name)
@pytest.mark.parametrize("text", [TEXTS, None], ids=["text", "no-text"])
def test_shapes_and_spans(model: FusionModel, coalition: Coalition, text: list[str] | None) -> None:
    if text is None and not coalition:
        with pytest.raises(FusionError, match="nothing to encode"):
            model.encode(text, batch(), coalition)
        return
    encoded = model.encode(text, batch(), coalition)
    assert encoded.pooled.shape == (3, model.operator.num_branches, 32)
    assert list(encoded.spans) == ["cls", *(["text"] if text else []), *coalition]
    assert encoded.states.shape[:2] == encoded.valid.shape
    covered = [i for span in encoded.spans.values() for i in range(span.start, span.stop)]
    assert covered == list(range(encoded.states.shape[1]))
    for alias in coalition:
        assert encoded.states[:, encoded.spans[alias]].shape[1] == GRIDS[alias] ** 2
    if text:
        text_lengths = encoded.valid[:, encoded.spans["text"]].sum(1).tolist()
        assert text_lengths == [3, 5, 1]  # words and [SEP]


def test_dropping_an_encoder_equals_masking_it(model: FusionModel) -> None:
    masked = batch()
    masked["clip"] = replace(masked["clip"], valid=torch.zeros(3, 9, dtype=torch.bool))
    close(
        model.encode(TEXTS, batch(), ("vit", "keys")).pooled,
        model.encode(TEXTS, masked, ("vit", "clip", "keys")).pooled,
    )


def test_dropping_tokens_equals_masking_them(model: FusionModel) -> None:
    """Also when what is masked holds NaN."""
    features = batch()["clip"]
    keep = torch.tensor([0, 3, 4, 8])
    dropped = Features(features.tokens[:, keep], features.boxes[:, keep], features.valid[:, keep])
    away = torch.ones(9, dtype=torch.bool)
    away[keep] = False
    poisoned = Features(
        features.tokens.masked_fill(away[:, None], torch.nan),
        features.boxes.masked_fill(away[:, None], torch.nan),
        ~away.expand(3, 9),
    )
    less = model.encode(TEXTS, {**batch(), "clip": dropped}, ("vit", "clip"))
    masked = model.encode(TEXTS, {**batch(), "clip": poisoned}, ("vit", "clip"))
    close(less.pooled, masked.pooled)
    close(less.states[:, less.spans["clip"]], masked.states[:, masked.spans["clip"]][:, keep])
    close(less.states[:, less.spans["vit"]], masked.states[:, masked.spans["vit"]])


def test_padding_of_texts_has_no_influence(model: FusionModel) -> None:
    together = model.encode(TEXTS, batch(), ("vit", "clip")).pooled
    for i, text in enumerate(TEXTS):
        alone = {alias: features.rows(slice(i, i + 1)) for alias, features in batch().items()}
        close(together[i : i + 1], model.encode([text], alone, ("vit", "clip")).pooled)


@pytest.mark.parametrize("coalition", all_coalitions(tuple(WIDTHS)), ids=coalition_name)
def test_absent_encoders_have_no_influence_and_get_no_gradient(
    model: FusionModel, coalition: Coalition
) -> None:
    def poison(alias: str, features: Features) -> Features:
        if alias in coalition:
            return features
        return replace(features, tokens=features.tokens * torch.nan, boxes=features.boxes * torch.nan)

    poisoned = {alias: poison(alias, features) for alias, features in batch().items()}
    only_present = {alias: features for alias, features in batch().items() if alias in coalition}
    found = model.encode(TEXTS, poisoned, coalition)
    assert torch.equal(found.pooled, model.encode(TEXTS, only_present, coalition).pooled)
    model.zero_grad()
    found.pooled.square().sum().backward()
    for alias in WIDTHS:
        for name, parameter in model.adapters[f"of_{alias}"].named_parameters():
            if alias in coalition:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
            else:
                assert parameter.grad is None, name
    model.zero_grad()


def test_present_features_and_text_matter(model: FusionModel) -> None:
    """So that none of the equalities above holds for want of any influence."""
    reference = model.encode(TEXTS, batch(), ("vit", "clip")).pooled
    for alias in ("vit", "clip"):
        for part in ("tokens", "boxes"):
            changed = replace(batch()[alias], **{part: getattr(batch(1)[alias], part)})
            other = model.encode(TEXTS, {**batch(), alias: changed}, ("vit", "clip")).pooled
            assert (other - reference).abs().amax(dim=(1, 2)).min() > 1e-3, (alias, part)
    other = model.encode(["square", "circle", "red"], batch(), ("vit", "clip")).pooled
    assert (other - reference).abs().amax(dim=(1, 2)).min() > 1e-3


def test_order_of_encoders_does_not_matter(model: FusionModel) -> None:
    """The same seed gives the same model whatever the order, and the same pooled state and logits."""
    permuted = FusionModel(model.config, dict(reversed(WIDTHS.items()))).eval()
    features: FeatureMap = batch()
    one = model.encode(TEXTS, features, ("vit", "clip", "keys"))
    two = permuted.encode(TEXTS, features, ("keys", "clip", "vit"))
    close(one.pooled, two.pooled)
    for name, span in one.spans.items():
        valid = one.valid[:, span]
        close(one.states[:, span][valid], two.states[:, two.spans[name]][valid])
    close(
        model.match(TEXTS, features, ("vit", "clip", "keys")),
        permuted.match(TEXTS, features, ("keys", "clip", "vit")),
    )


def test_seed_is_all_that_initial_weights_depend_on(config: FusionConfig) -> None:
    torch.manual_seed(1)
    one, after_one = FusionModel(config, WIDTHS).state_dict(), torch.rand(())
    torch.manual_seed(1)
    assert torch.rand(()) == after_one  # building leaves the caller's random state alone
    two, other = FusionModel(config, WIDTHS).state_dict(), FusionModel(config, WIDTHS, seed=1).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["text.words.weight"], other["text.words.weight"])


def test_attention_mass(model: FusionModel) -> None:
    if "mass" not in model.operator.attentions:
        pytest.skip("this operator reports no attention mass")
    coalition = ("vit", "clip")
    features = batch()
    features["clip"].valid[:, :3] = False
    encoded = model.encode(TEXTS, features, coalition, attention="mass")
    report = encoded.attention
    assert report is not None and report.names == ("cls", "text", "vit", "clip")
    assert report.mass.shape == (2, 3, 4, 4) and (report.mass >= 0).all()
    close(report.mass.sum(-1), torch.ones(2, 3, 4))
    # Valid tokens: 1 CLS, 3 / 5 / 1 of text, 4 of vit, 6 of clip: 14, 16 and 12 in all.
    expected = [
        (1 / 14 + 1 / 16 + 1 / 12) / 3,
        (3 / 14 + 5 / 16 + 1 / 12) / 3,
        (4 / 14 + 4 / 16 + 4 / 12) / 3,
        (6 / 14 + 6 / 16 + 6 / 12) / 3,
    ]
    close(report.token_share, torch.tensor(expected))
    plain = model.encode(TEXTS, features, coalition)
    assert plain.attention is None and torch.equal(plain.pooled, encoded.pooled)


def test_match_is_one_logit_a_pair_from_the_pooled_state(model: FusionModel) -> None:
    logits = model.match(TEXTS, batch(), ("vit",))
    assert logits.shape == (3,)
    close(logits, model.match_logits(model.encode(TEXTS, batch(), ("vit",))))


def test_bf16_autocast_agrees(model: FusionModel) -> None:
    reference = model.encode(TEXTS, batch(), ("vit", "clip"), attention="mass")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.encode(TEXTS, batch(), ("vit", "clip"), attention="mass")
    assert half.attention is not None and reference.attention is not None
    torch.testing.assert_close(half.pooled.float(), reference.pooled, atol=0.05, rtol=0)
    torch.testing.assert_close(half.attention.mass, reference.attention.mass, atol=0.02, rtol=0)


def test_saved_and_loaded_agree_exactly(model: FusionModel, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    model.save(tmp_path / "saved")
    loaded = FusionModel.load(tmp_path / "saved")
    assert loaded.config == model.config and loaded.widths == model.widths and loaded.aliases == model.aliases
    assert torch.equal(
        model.encode(TEXTS, batch(), ("vit", "keys")).pooled,
        loaded.encode(TEXTS, batch(), ("vit", "keys")).pooled,
    )
    assert torch.equal(model.match(TEXTS, batch(), ("clip",)), loaded.match(TEXTS, batch(), ("clip",)))
    assert not list((tmp_path / "saved").glob("*.part"))
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(FusionError, match="cannot read .*model.safetensors"):
        FusionModel.load(tmp_path / "saved")
    (tmp_path / "saved" / "fusion.json").unlink()
    with pytest.raises(FusionError, match="fusion.json does not exist"):
        FusionModel.load(tmp_path / "saved")


def test_config_round_trips_exactly() -> None:
    for config in (FusionConfig(), FusionConfig(text="scratch", dropout=0.1, tokenizer="a folder", heads=8)):
        again = FusionConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config and again.to_dict() == config.to_dict()
    assert FusionConfig(text="scratch").to_dict()["tokenizer"] is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 64}, "fusion.widht; did you mean 'width'"),
        ({"width": "64"}, "fusion.width='64' must be a whole number"),
        ({"layers": 0}, "fusion.layers=0 .*at least 1"),
        ({"width": 128, "heads": 5}, "fusion.heads=5 does not divide fusion.width=128; nearest: 4"),
        ({"text": 3}, "fusion.text=3 must be a name"),
        ({"dropout": "0.1"}, "fusion.dropout='0.1' must be a number"),
        ({"dropout": 1.0}, r"fusion.dropout=1.0 must be in \[0, 1\)"),
        ({"operator": "concatt"}, "'concatt'; did you mean 'concat'"),
        ({"tokenizer": "folder"}, "fusion.tokenizer='folder'.*fusion.text='demo' brings its own"),
    ],
)
def test_config_refuses(values: dict[str, object], message: str) -> None:
    with pytest.raises(FusionError, match=message):
        FusionConfig.from_dict(values)


def test_encode_refuses(model: FusionModel) -> None:
    features = batch()
    narrow = {**features, "vit": replace(features["vit"], tokens=features["vit"].tokens[..., :5])}
    fewer = {**features, "vit": features["vit"].rows(slice(0, 2))}
    cases: list[tuple[list[str] | str | None, FeatureMap | None, Coalition | str, str]] = [
        (TEXTS, features, ("clipp",), "unknown encoder 'clipp'.*did you mean 'clip'"),
        (TEXTS, features, ("clip", "vit"), "'clip\\+vit'.*nearest valid one is 'vit\\+clip'"),
        (TEXTS, features, ("vit", "vit"), "'vit\\+vit' repeats.*nearest valid one is 'vit'"),
        (TEXTS, features, "vit", "'vit' is a string"),
        (TEXTS, {"vit": features["vit"]}, ("vit", "clip"), "no features of encoder 'clip'.*given: vit"),
        (TEXTS, None, ("vit",), "no features of encoder 'vit'.*given: none"),
        (TEXTS, narrow, ("vit",), r"'vit' have shape \(3, 4, 5\); expected \(batch, tokens, 6\)"),
        (TEXTS, fewer, ("vit", "clip"), "'clip' has 3 images, 'vit' 2"),
        (TEXTS[:2], features, ("vit",), "2 texts for 3 images"),
        ([], None, (), "0 texts for no images"),
        ("red circle", None, (), "text is one string, 'red circle'"),
        (None, features, (), "nothing to encode"),
    ]
    for text, given, coalition, message in cases:
        with pytest.raises(FusionError, match=message):
            model.encode(text, given, coalition)  # type: ignore[arg-type]


def test_encode_refuses_what_annotations_also_catch(model: FusionModel) -> None:
    """Where shapes are checked at run time, that check may speak first."""
    with pytest.raises((FusionError, TypeCheckError), match="do not fit 3 x 4 tokens|Type-check"):
        features = batch()["vit"]
        model.encode(TEXTS, {"vit": replace(features, boxes=features.boxes[:, :2])}, ("vit",))
    with pytest.raises((FusionError, TypeCheckError), match="gives no attention 'mas'|Type-check"):
        model.encode(TEXTS, batch(), ("vit",), attention="mas")  # type: ignore[arg-type]


def test_operators_by_name() -> None:
    with pytest.raises(FusionError, match="'conct'; did you mean 'concat'"):
        operator_class("conct")


def test_all_coalitions_by_hand() -> None:
    assert all_coalitions(("a", "b", "c")) == [
        (), ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c"),
    ]  # fmt: skip
    assert coalition_name(("a", "c")) == "a+c" and coalition_name(()) == ""


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, fusion, fusion.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
