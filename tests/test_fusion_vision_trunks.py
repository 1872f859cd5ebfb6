"""Trunks that start from the blocks of a vision transformer, against transformers' and timm's own layers."""

import encoders.torchvision_compat  # noqa: F401 (transformers' models import torchvision)

# isort: split
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from fusion_batch import WIDTHS
from fusion_checkpoints import COMMON, TEXTS, change, randomised, settings, text_folder
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

from fusion.architectures import VISION_MODELS
from fusion.errors import FusionError
from fusion.model import FusionModel

IMAGES = {"image_size": 32, "patch_size": 16}
VISION: dict[str, Callable[[Path], None]] = {}


def _save_vision(name: str, **values: Any) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**{**COMMON, **IMAGES, **values})
        randomised(getattr(transformers, f"{name}Model")(config)).save_pretrained(folder)  # type: ignore[operator]

    return save


def _timm_model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 4, "mlp_ratio": 2}
    return randomised(timm.create_model("vit_tiny_patch16_224", num_classes=0, init_values=0.5, **sizes)).eval()


def _save_timm(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    save_file(_timm_model().state_dict(), folder / "model.safetensors")
    described = {"architecture": "vit_tiny_patch16_224", "model_args": {"embed_dim": 32, "depth": 4, "num_heads": 4}}
    (folder / "config.json").write_text(json.dumps(described))


VISION["vit"] = _save_vision("ViT", qkv_bias=False)
VISION["deit"] = _save_vision("DeiT")
VISION["dinov2"] = _save_vision("Dinov2", mlp_ratio=2)
VISION["timm"] = _save_timm


@pytest.mark.parametrize("kind", sorted(VISION))
@pytest.mark.parametrize("text", ["scratch", "bert"])
def test_trunk_from_a_vision_transformer(tmp_path: Path, kind: str, text: str) -> None:
    """The blocks are its blocks; the text's embeddings are those of the text model, or random."""
    VISION[kind](tmp_path / "vision")
    words = text_folder("bert", tmp_path / "text")
    given = {"text": "scratch", "tokenizer": str(words)} if text == "scratch" else {}
    model = FusionModel(settings(words, trunk=str(tmp_path / "vision"), **given), WIDTHS).eval()
    states = torch.randn(2, 7, 32)
    trunk = model.operator.trunk
    assert isinstance(trunk, nn.Module)
    reference: Any = _timm_model() if kind == "timm" else AutoModel.from_pretrained(tmp_path / "vision").eval()
    with torch.no_grad():
        found, _ = trunk(states, valid=torch.ones(2, 7, dtype=torch.bool))
        expected = states
        if kind == "timm":
            expected = reference.norm(reference.blocks(expected))
        else:
            for layer in reference.encoder.layer if kind == "dinov2" else reference.layers:
                expected = layer(expected)
            expected = reference.layernorm(expected)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        if text == "bert":
            ids = AutoTokenizer.from_pretrained(words)(TEXTS[:1], return_tensors="pt")["input_ids"]
            embedded = AutoModel.from_pretrained(words).embeddings(input_ids=ids)
            torch.testing.assert_close(model.text(ids), embedded, atol=1e-5, rtol=1e-5)


def test_every_vision_architecture_is_tested() -> None:
    assert set(VISION) == set(VISION_MODELS)


def test_vision_trunks_that_cannot_be_honoured(tmp_path: Path) -> None:
    VISION["dinov2"](tmp_path / "dino")
    VISION["timm"](tmp_path / "timm")
    words = text_folder("bert", tmp_path / "text")
    modern = text_folder("modernbert", tmp_path / "modern")
    dino = str(tmp_path / "dino")
    cases = [
        (settings(words, trunk=str(words)), "model_type 'bert' is not supported.*valid: vit, deit, dinov2, timm"),
        (settings(words, trunk=str(tmp_path / "no")), "fusion.trunk='.*no'.*config.json does not exist"),
        (settings(modern, trunk=dino), "has rotary ones; nearest: fusion.text='scratch'"),
        (settings(words, layers=5, trunk=dino), "fusion.layers=5 is more than the 4 num_hidden_layers"),
        (settings(words, heads=8, trunk=dino), "fusion.heads=8, but .* has num_attention_heads 4"),
    ]
    for config, message in cases:
        with pytest.raises(FusionError, match=message):
            FusionModel(config, {})
    change(tmp_path / "dino", use_swiglu_ffn=True)
    with pytest.raises(FusionError, match="use_swiglu_ffn True is not supported; valid: False"):
        FusionModel(settings(words, trunk=dino), {})
    change(tmp_path / "timm", architecture="convnext_tiny")
    with pytest.raises(FusionError, match="timm architecture 'convnext_tiny' is not supported; valid: plain vit_"):
        FusionModel(settings(words, trunk=str(tmp_path / "timm")), {})
