"""Small random checkpoints of the real text architectures, as transformers saves them."""

import encoders.torchvision_compat  # noqa: F401 (transformers' models import torchvision)

# isort: split
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from fusion.config import FusionConfig
from fusion.text import build_tokenizer

TEXTS = ["the red circle", "", "many blue squares zzz left of the circle and of many other red squares"]
COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
POSITIONS = {"max_position_embeddings": 24}
ROBERTA = {"max_position_embeddings": 26, "type_vocab_size": 1, "pad_token_id": 1}
DISTILBERT = {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48, "initializer_range": 0.3, **POSITIONS}
MODERNBERT = {**COMMON, "local_attention": 8, "max_position_embeddings": 24}
TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**COMMON, **POSITIONS}),
    "electra": ("Electra", {**COMMON, **POSITIONS, "embedding_size": 32}),
    "roberta": ("Roberta", {**COMMON, **ROBERTA}),
    "xlm-roberta": ("XLMRoberta", {**COMMON, **ROBERTA}),
    "camembert": ("Camembert", {**COMMON, **ROBERTA}),
    "distilbert": ("DistilBert", DISTILBERT),
    "modernbert": ("ModernBert", MODERNBERT),
}


def randomised(model: nn.Module) -> nn.Module:
    """Every LayerNorm, bias and layer scale at random, so that each shows in the output."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
    return model


def byte_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer with RoBERTa's special tokens and post-processor."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    merges = [("Ġ", "r"), ("e", "d"), ("r", "e")]
    for one, two in merges:
        vocabulary[one + two] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return len(vocabulary)


def text_folder(kind: str, folder: Path, *, head: str = "Model", **changed: Any) -> Path:
    """A random checkpoint of the real architecture, saved by transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    size = byte_tokenizer(folder) if "roberta" in kind or kind == "camembert" else None
    if size is None:
        size = build_tokenizer(TEXTS, folder=folder).vocab_size
    name, values = TEXT[kind]
    pad = {} if "pad_token_id" in values else {"pad_token_id": 0}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=size, **{**values, **pad, **changed})
    randomised(getattr(transformers, f"{name}{head}")(config)).save_pretrained(folder)  # type: ignore[operator]
    return folder


def texts_for(kind: str) -> list[str]:
    """Texts that the architecture's tokenizer here makes no longer than 23 tokens."""
    return ["the red", "", "a circle or two"] if "roberta" in kind or kind == "camembert" else TEXTS


def settings(folder: Path, layers: int = 4, **changed: Any) -> FusionConfig:
    values = {"width": 32, "layers": layers, "heads": 4, "text": str(folder), "max_text": 23, **changed}
    return FusionConfig.from_dict(values)


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
