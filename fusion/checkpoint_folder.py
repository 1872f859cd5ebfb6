"""A checkpoint on disk or on the Hugging Face hub: its folder, its settings, its tensors.

Handed a folder or a hub name, hands on a folder; handed a folder, hands on config.json with transformers'
defaults for what it leaves out, and the tensors of all its shards.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fusion.errors import FusionError, choices

FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "special_tokens_map.json")

# What a BERT config.json means where it leaves a key out (the defaults of transformers' BertConfig).
BERT_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}


def find_folder(name: str, *, setting: str, words: tuple[str, ...] = ()) -> Path:
    """Returns the folder of a checkpoint; a hub name is fetched, or found in the hub's cache.

    Args:
        name: a folder with config.json, or a hub name such as "answerdotai/ModernBERT-base".
        setting: that the name came from, for error messages.
        words: other values that the setting may have.

    Raises:
        FusionError: there is no such folder, and no such name that can be reached.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder
    near = f"{choices(name, words)}, or" if words else "give"
    if folder.is_dir() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise FusionError(
            f"{setting}={name!r}: {folder / 'config.json'} does not exist; {near} a folder or a Hugging Face name"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # offline, unknown, gated, a malformed name: the hub raises many kinds
        raise FusionError(
            f"{setting}={name!r}: {folder / 'config.json'} does not exist, and the Hugging Face hub has or gives no "
            f"such model ({str(error).splitlines()[0]}); {near} a folder or a Hugging Face name"
        ) from error


def read_values(folder: Path, *, kinds: Collection[str]) -> dict[str, Any]:
    """Returns the values of config.json, and the architecture's defaults for those left out.

    Raises:
        FusionError: it cannot be read, or its model_type is not among `kinds`.
    """
    path = folder / "config.json"
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = values.get("model_type", "timm" if "architecture" in values else "bert")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, OSError) as error:
        raise FusionError(f"cannot read {path}: {error}") from error
    if kind not in kinds:
        raise FusionError(f"{path}: model_type {kind!r} is not supported; {choices(str(kind), kinds)}")
    if kind == "bert":
        return {**BERT_DEFAULTS, **values, "model_type": kind}
    if kind == "timm":
        return {**values, "model_type": kind}
    from transformers import AutoConfig

    try:
        return {**AutoConfig.from_pretrained(folder).to_dict(), "model_type": kind}
    except Exception as error:  # transformers raises many kinds for an unknown or malformed config
        raise FusionError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Returns all tensors of a folder, and the file that they, or their list, came from.

    Raises:
        FusionError: a file is missing or torn, or its weights are in a pickle.
    """
    path = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if not path.is_file() and not index.is_file():
        raise FusionError(
            f"cannot read weights {path}: it does not exist. A pytorch_model.bin can run code when it is read, so it is"
            " not: load and save it once with transformers, AutoModel.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    try:
        if path.is_file() or not index.is_file():
            return load_file(path), path
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        tensors: dict[str, Tensor] = {}
        for shard in shards:
            tensors.update(load_file(folder / shard))
        return tensors, index
    except (FileNotFoundError, SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise FusionError(f"cannot read weights {path}: {error}") from error


def as_float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors in float32, whatever precision they were saved in."""
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
