"""The contract of the fusion model: coalitions, masks, order, gradients, mass, settings, files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fusion_batch import TEXTS, WIDTHS, batch
from jaxtyping import TypeCheckError

from fusion.config import FusionConfig
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.operators import operator_class
from fusion.text import build_tokenizer
from fusion.types import Coalition, FeatureMap, all_coalitions, coalition_name


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FusionConfig:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TEXTS, folder=folder)
    return FusionConfig(width=32, layers=2, heads=4, text="scratch", tokenizer=str(folder), max_text=16)


@pytest.fixture(scope="module", params=["concat"])
def model(request: pytest.FixtureRequest, config: FusionConfig) -> FusionModel:
    return FusionModel(replace(config, operator=request.param), WIDTHS).eval()


def test_seed_is_all_that_initial_weights_depend_on(config: FusionConfig) -> None:
    torch.manual_seed(1)
    one, after_one = FusionModel(config, WIDTHS).state_dict(), torch.rand(())
    torch.manual_seed(1)
    assert torch.rand(()) == after_one  # building leaves the caller's random state alone
    two, other = FusionModel(config, WIDTHS).state_dict(), FusionModel(config, WIDTHS, seed=1).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["text.words.weight"], other["text.words.weight"])


def test_saved_and_loaded_agree_exactly(model: FusionModel, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    model.save(tmp_path / "saved")
    modes = {(tmp_path / "saved" / name).stat().st_mode for name in ("fusion.json", "model.safetensors")}
    assert len(modes) == 1  # whoever may read the one may read the other
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
