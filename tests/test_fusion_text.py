"""Tokenizer folders and BERT checkpoints against transformers itself."""

import encoders.torchvision_compat  # noqa: F401 (transformers' BERT imports torchvision)

# isort: split
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from fusion.checkpoint_folder import BERT_DEFAULTS
from fusion.config import FusionConfig
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.text import TextTokenizer, build_tokenizer
from fusion.trunk import load_text_trunk

CORPUS = ["A red circle left of the blue square.", "the red square", "how many circles are there?"]
TEXTS = ["The red circle?", "", "many blue squares zzz left of the circle"]


def bert_folder(folder: Path, *, kind: type[BertModel] | type[BertForMaskedLM] = BertModel) -> Path:
    """A random BERT with unit-sized weights, so that every part of it shows in the output."""
    tokenizer = build_tokenizer(CORPUS, folder=folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
        initializer_range=0.3,
    )
    model = kind(config)
    for name, parameter in model.named_parameters():
        if "bias" in name or "LayerNorm" in name:
            torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.2)
    model.save_pretrained(folder)
    return folder


def settings(folder: Path, layers: int = 3, **changed: int | str) -> FusionConfig:
    values = {"width": 32, "layers": layers, "heads": 4, "text": str(folder), "max_text": 24, **changed}
    return FusionConfig.from_dict(values)


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_text_only_equals_transformers_bert(
    tmp_path: Path, kind: type[BertModel] | type[BertForMaskedLM]
) -> None:
    folder = bert_folder(tmp_path, kind=kind)
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    model = FusionModel(settings(folder), {"vit": 5}).eval()
    reference = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = reference(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        encoded = model.encode(TEXTS, None, ())
    valid = batch["attention_mask"].bool()
    assert torch.equal(encoded.valid, valid)
    torch.testing.assert_close(encoded.states[valid], expected[valid], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.pooled[:, 0], expected[:, 0], atol=1e-5, rtol=0)


def test_fewer_layers_are_the_first_ones(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path)
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS[:1], return_tensors="pt")
    reference = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = reference(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states
        encoded = FusionModel(settings(folder, layers=2), {}).eval().encode(TEXTS[:1], None, ())
    torch.testing.assert_close(encoded.states, states[2], atol=1e-5, rtol=0)


def test_defaults_are_those_of_transformers() -> None:
    config = BertConfig()
    assert {key: getattr(config, key) for key in BERT_DEFAULTS} == BERT_DEFAULTS


def test_tokenizer_by_hand(tmp_path: Path) -> None:
    """Two words and three letters: ids 0-4 special, 5-7 letters, 8-10 continuations, then words by count."""
    built = build_tokenizer(["ab ab", "BA c"], folder=tmp_path, vocab_size=13)
    assert [built.tokenizer.id_to_token(i) for i in range(13)] == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "##c", "ab", "ba",
    ]  # fmt: skip
    ids, valid = built.ids(["ab cab", "", "z"], max_text=6)
    assert ids.tolist() == [[2, 11, 7, 8, 9, 3], [2, 3, 0, 0, 0, 0], [2, 1, 3, 0, 0, 0]]
    assert valid.sum(1).tolist() == [6, 2, 3]
    assert built.ids(["ab ba ab"], max_text=3)[0].tolist() == [[2, 11, 3]]
    padded, seen = built.ids(["ab cab", "", "z"], max_text=8, multiple=4)
    assert padded.shape == (3, 8) and torch.equal(padded[:, :6], ids) and seen.sum(1).tolist() == [6, 2, 3]
    assert built.ids(["ab cab", "", "z"], max_text=7, multiple=4)[0].shape == (3, 7)  # never beyond max_text
    with pytest.raises(FusionError, match="vocab_size=10"):
        build_tokenizer(["ab ab", "BA c"], folder=tmp_path, vocab_size=10)


def test_tokenizer_folder_loads_with_transformers_and_again(tmp_path: Path) -> None:
    build_tokenizer(CORPUS, folder=tmp_path / "one")
    build_tokenizer(reversed(CORPUS), folder=tmp_path / "two")
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (tmp_path / "two/tokenizer.json").read_bytes()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert (theirs.cls_token, theirs.pad_token, theirs.mask_token) == ("[CLS]", "[PAD]", "[MASK]")
    ours = TextTokenizer.load(tmp_path / "one").ids(TEXTS, max_text=64)[0]
    assert ours.tolist() == theirs(TEXTS, padding=True)["input_ids"]


def test_errors_name_value_file_and_nearest(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path)
    wrong = [
        (settings(folder, width=64), "fusion.width=64, but .*has hidden_size 32; nearest: fusion.width=32 fusion"),
        (settings(folder, layers=4), "fusion.layers=4 is more than the 3"),
        (settings(folder, max_text=25), "fusion.max_text=25 is more than the 24"),
        (FusionConfig(text="scrach"), "'scrach'.*did you mean 'scratch'"),
        (FusionConfig(text="scratch", tokenizer=str(tmp_path / "no")), "no/tokenizer.json does not exist"),
    ]
    for config, message in wrong:
        with pytest.raises(FusionError, match=message):
            load_text_trunk(config)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "model_type": "t5"}))
    with pytest.raises(FusionError, match="model_type 't5' is not supported.*valid: bert, electra, roberta"):
        load_text_trunk(settings(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(FusionError, match="cannot read .*config.json"):
        load_text_trunk(settings(folder))
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(FusionError, match="cannot read weights .*model.safetensors"):
        load_text_trunk(settings(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FusionError, match="cannot read weights .*pytorch_model.bin can run code.*save_pretrained"):
        load_text_trunk(settings(folder))
