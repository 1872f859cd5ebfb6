"""Trunks that start from text encoders, against transformers' own forward passes and layers."""

import encoders.torchvision_compat  # noqa: F401 (transformers' models import torchvision)

# isort: split
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fusion_batch import WIDTHS, batch
from fusion_checkpoints import TEXT, TEXTS, change, settings, text_folder, texts_for
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from fusion import OPERATORS
from fusion.architectures import TEXT_MODELS
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.types import Features


def test_every_architecture_is_tested() -> None:
    assert set(TEXT) == set(TEXT_MODELS)


@pytest.mark.parametrize("kind", sorted(TEXT))
@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_text_only_equals_transformers(tmp_path: Path, kind: str, head: str) -> None:
    folder = text_folder(kind, tmp_path, head=head)
    texts = texts_for(kind)
    given = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    reference = AutoModel.from_pretrained(folder).eval()
    model = FusionModel(settings(folder), {"vit": 5}).eval()
    with torch.no_grad():
        expected = reference(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
        encoded = model.encode(texts, None, ())
    valid = given["attention_mask"].bool()
    assert torch.equal(encoded.valid, valid)
    torch.testing.assert_close(encoded.states[valid], expected[valid], atol=1e-5, rtol=1e-5)


def their_layers(kind: str, reference: Any, states: Tensor, num_text: int) -> Tensor:
    """The joint stream through transformers' own layers; visual tokens at position 0 where positions rotate."""
    if kind == "distilbert":
        found: Tensor = reference.transformer(states).last_hidden_state
        return found
    if kind != "modernbert":
        found = reference.encoder(states).last_hidden_state
        return found
    places = torch.arange(states.shape[1])
    places = torch.where(places < num_text, places, 0)[None]
    for layer in reference.layers:
        turns = reference.rotary_emb(states, places, layer.attention_type)
        states = layer(states, position_embeddings=turns)
    found = reference.final_norm(states)
    return found


@pytest.mark.parametrize("kind", sorted(TEXT))
def test_joint_stream_equals_the_layers_of_transformers(tmp_path: Path, kind: str) -> None:
    """Words enter as they leave transformers' embeddings; visual tokens beside them bypass word positions.

    A text of five tokens is within ModernBERT's local reach of four, so its local layers are global here.
    """
    folder = text_folder(kind, tmp_path)
    reference = AutoModel.from_pretrained(folder).eval()
    model = FusionModel(settings(folder), WIDTHS).eval()
    text = "re" if "roberta" in kind or kind == "camembert" else "the red circle"
    features = {alias: given.rows(slice(0, 1)) for alias, given in batch().items()}
    entered: list[Tensor] = []
    trunk = model.operator.trunk
    assert isinstance(trunk, nn.Module)
    trunk.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with torch.no_grad():
        found = model.encode([text], features, tuple(WIDTHS)).states
        ids = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")["input_ids"]
        words = reference.embeddings(input_ids=ids)
        assert ids.shape[1] <= 5
        torch.testing.assert_close(entered[0][:, : ids.shape[1]], words, atol=1e-5, rtol=1e-5)
        expected = their_layers(kind, reference, entered[0], ids.shape[1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_local_layers_are_global_for_visual_tokens(tmp_path: Path) -> None:
    """ModernBERT with a reach of 4 and 17 words: transformers' layers under a mask written out here."""
    folder = text_folder("modernbert", tmp_path)
    reference: Any = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model = FusionModel(settings(folder), WIDTHS).eval()
    entered: list[Tensor] = []
    trunk = model.operator.trunk
    assert isinstance(trunk, nn.Module)
    trunk.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    features = {alias: given.rows(slice(0, 1)) for alias, given in batch().items()}
    with torch.no_grad():
        encoded = model.encode(TEXTS[2:], features, tuple(WIDTHS))
        states = entered[0]
        length, num_text = states.shape[1], encoded.spans["text"].stop
        assert num_text > 10
        allowed = torch.ones(length, length, dtype=torch.bool)
        for i in range(num_text):
            for j in range(num_text):
                allowed[i, j] = abs(i - j) <= 4
        mask = torch.zeros(length, length).masked_fill(~allowed, -torch.inf)[None, None]
        places = torch.tensor([[*range(num_text), *[0] * (length - num_text)]])
        for layer in reference.layers:
            turns = reference.rotary_emb(states, places, layer.attention_type)
            local = layer.attention_type == "sliding_attention"
            states = layer(states, position_embeddings=turns, attention_mask=mask if local else None)
        expected = reference.final_norm(states)
    torch.testing.assert_close(encoded.states, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_padding_beyond_the_local_reach_stays_finite(tmp_path: Path, precision: torch.dtype) -> None:
    """Twenty words beside none: the short text's last padding has no real token within its reach of four."""
    model = FusionModel(settings(text_folder("modernbert", tmp_path)), {}).train()
    alone, half = model.encode([""], None, ()).pooled, precision is torch.bfloat16
    with torch.autocast("cpu", dtype=precision, enabled=half):
        encoded = model.encode(["", "red " * 20], None, ())
    assert encoded.valid.sum(1).tolist() == [2, 22] and bool(encoded.states.isfinite().all())
    torch.testing.assert_close(encoded.pooled[:1].float(), alone, atol=0.1 if half else 1e-5, rtol=0)
    encoded.pooled.float().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_operators_on_modernbert(tmp_path: Path, operator: str) -> None:
    """Dropping equals masking, the order of encoders changes nothing, and saving needs no checkpoint."""
    folder = text_folder("modernbert", tmp_path / "text")
    config = settings(folder, operator=operator)
    model = FusionModel(config, WIDTHS).eval()
    masked = batch()
    masked["clip"] = replace(masked["clip"], valid=torch.zeros(3, 10, dtype=torch.bool))
    one = model.encode(TEXTS, batch(), ("vit", "keys")).pooled
    two = model.encode(TEXTS, masked, ("vit", "clip", "keys")).pooled
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    permuted = FusionModel(config, dict(reversed(WIDTHS.items()))).eval()
    logits = model.match(TEXTS, batch(), ("vit", "clip", "keys"))
    torch.testing.assert_close(logits, permuted.match(TEXTS, batch(), ("keys", "clip", "vit")), atol=1e-5, rtol=1e-5)
    model.save(tmp_path / "saved")
    for file in folder.iterdir():
        file.unlink()
    assert torch.equal(FusionModel.load(tmp_path / "saved").match(TEXTS, batch(), ("vit", "clip", "keys")), logits)


def test_visual_tokens_outgrow_the_texts_positions(tmp_path: Path) -> None:
    """Four encoders of 200 tokens beside a BERT with 24 positions."""
    model = FusionModel(settings(text_folder("bert", tmp_path)), {alias: 3 for alias in "abcd"}).eval()
    one = Features(torch.randn(1, 200, 3), torch.rand(1, 200, 4), torch.ones(1, 200) > 0)
    assert model.encode(["red"], dict.fromkeys("abcd", one), tuple("abcd")).states.shape == (1, 803, 32)


def test_names_are_found_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name without a network, as after a download; and what the hub does not have is refused by name."""
    snapshot = tmp_path / "hub" / "models--some--bert" / "snapshots" / ("0" * 40)
    text_folder("bert", snapshot)
    (tmp_path / "hub/models--some--bert/refs").mkdir()
    (tmp_path / "hub/models--some--bert/refs/main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    by_name = FusionModel(settings(Path("some/bert")), {}).encode(TEXTS, None, ())
    assert torch.equal(by_name.states, FusionModel(settings(snapshot), {}).encode(TEXTS, None, ()).states)
    with pytest.raises(FusionError, match="fusion.text='some/bart'.*hub.*did you mean|fusion.text='some/bart'.*valid"):
        FusionModel(settings(Path("some/bart")), {})


def test_shards_are_read(tmp_path: Path) -> None:
    whole = text_folder("bert", tmp_path / "whole")
    parts = text_folder("bert", tmp_path / "parts")
    tensors = load_file(parts / "model.safetensors")
    names = sorted(tensors)
    (parts / "model.safetensors").unlink()
    where = {}
    for k, some in enumerate((names[:20], names[20:])):
        save_file({name: tensors[name] for name in some}, parts / f"model-{k}.safetensors")
        where.update(dict.fromkeys(some, f"model-{k}.safetensors"))
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    one, two = (FusionModel(settings(folder), {}).encode(TEXTS, None, ()) for folder in (whole, parts))
    assert torch.equal(one.states, two.states)


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("bert", {"model_type": "t5"}, "model_type 't5' is not supported.*valid: bert, electra, roberta"),
        ("bert", {"model_type": "robert"}, "model_type 'robert'.*did you mean 'roberta'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'.*'absolute'"),
        ("roberta", {"hidden_act": "silu"}, "hidden_act 'silu'; did you mean 'relu'. valid: gelu, gelu_new"),
        ("modernbert", {"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ("roberta", {"classifier_dropout": "x"}, "cannot read .*config.json: .*classifier_dropout"),
        ("distilbert", {"dim": 64}, "fusion.width=32, but .* has dim 64"),
        ("distilbert", {"n_layers": 3}, "fusion.layers=4 is more than the 3 n_layers"),
        ("roberta", {"max_position_embeddings": 24}, "fusion.max_text=23 is more than the 22 positions"),
    ],
)
def test_text_folders_that_cannot_be_honoured(
    tmp_path: Path, kind: str, changed: dict[str, Any], message: str
) -> None:
    folder = text_folder(kind, tmp_path)
    change(folder, **changed)
    with pytest.raises(FusionError, match=message):
        FusionModel(settings(folder), {})
