"""Attention mass of every operator, on trunks of text encoders that normalise after each part, and on ModernBERT."""

from pathlib import Path

import pytest
from fusion_batch import WIDTHS
from fusion_checkpoints import settings, text_folder, texts_for
from fusion_explicit import mass_and_weights

from fusion import OPERATORS
from fusion.model import FusionModel


@pytest.fixture(scope="module", params=["bert", "distilbert", "modernbert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind: str = request.param
    return text_folder(kind, tmp_path_factory.mktemp("text") / kind)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_attention_mass_equals_the_explicit_softmax(
    folder: Path, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FusionModel(settings(folder, operator=operator), WIDTHS).eval()
    asked, _ = mass_and_weights(model, texts_for(folder.name), monkeypatch)
    assert asked.attention is not None
    layers = 2 if operator in ("resampler", "window") else 4
    assert asked.attention.mass.shape == (layers, 3, 4, len(asked.attention.names))
    assert model.shape.norm == ("pre" if folder.name == "modernbert" else "post")


def test_local_layers_limit_the_words_that_cls_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third text's 17 tokens reach beyond the four places that ModernBERT's layers 1 and 2 see."""
    model = FusionModel(settings(text_folder("modernbert", tmp_path)), WIDTHS).eval()
    assert model.shape.local_layers == (1, 2) and model.shape.local_reach == 4
    asked, weights = mass_and_weights(model, texts_for("modernbert"), monkeypatch)
    assert asked.attention is not None and asked.spans["text"].stop > 5
    for layer, of_layer in enumerate(weights):
        words = of_layer[2, :, 0, : asked.spans["text"].stop]
        assert bool((words[:, 5:] > 0).any()) is (layer not in model.shape.local_layers)
        assert bool((words[:, :5] > 0).all()) and bool((asked.attention.mass[layer, 2, :, 2:] > 0).all())
