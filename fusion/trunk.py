"""Where a trunk's weights come from: random, the demo's, or a BERT checkpoint folder.

Handed the settings, reads config.json, model.safetensors and tokenizer.json of the folder they name and hands
on a `TextTrunk`: shape, tokenizer and weights; the functions below then copy the weights into text embeddings
and blocks. The folder is what `BertModel` or `BertForMaskedLM` write with `save_pretrained`; where the text model
was trained on words with boxes, layout.safetensors beside it holds its box positions.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion.config import FusionConfig
from fusion.errors import FusionError, choices
from fusion.positions import BoxPositions
from fusion.text import TextEmbedder, TextTokenizer
from fusion.transformer import Activation, Block, Trunk, TrunkShape

DEMO_FOLDER = Path(__file__).parent / "demo_text"
LAYOUT = "layout"

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
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True, eq=False)
class TextTrunk:
    """A text model to start from.

    Attributes:
        shape: of the blocks and the embeddings.
        tokenizer: that the word embeddings belong to.
        weights: of the checkpoint by BERT's names, without the "bert." prefix; empty to start from random
            ones.
        source: the file that the weights came from, for error messages.
    """

    shape: TrunkShape
    tokenizer: TextTokenizer
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    source: str = "scratch"


def load_text_trunk(config: FusionConfig) -> TextTrunk:
    """Returns the text trunk that the settings name.

    Raises:
        FusionError: the folder or one of its files is missing or of another architecture, or `width`, `heads`
            or `layers` cannot be honoured by the checkpoint.
    """
    if config.text == "scratch":
        tokenizer = TextTokenizer.load(DEMO_FOLDER if config.tokenizer is None else Path(config.tokenizer))
        shape = TrunkShape(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_width=config.mlp_ratio * config.width,
            vocab_size=tokenizer.vocab_size,
            max_positions=config.max_text,
        )
        return TextTrunk(shape, tokenizer)
    folder = DEMO_FOLDER if config.text == "demo" else Path(config.text)
    if not (folder / "config.json").is_file():
        near = choices(config.text, ["demo", "scratch"])
        raise FusionError(
            f"fusion.text={config.text!r}: {folder / 'config.json'} does not exist; {near}, or a BERT folder"
        )
    shape = _bert_shape(folder / "config.json", config)
    tokenizer = TextTokenizer.load(folder)
    if tokenizer.vocab_size > shape.vocab_size:
        raise FusionError(
            f"{folder / 'tokenizer.json'} has {tokenizer.vocab_size} tokens, more than the "
            f"{shape.vocab_size} of config.json"
        )
    path = folder / "model.safetensors"
    return TextTrunk(shape, tokenizer, _bert_weights(path), str(path))


def _bert_shape(path: Path, config: FusionConfig) -> TrunkShape:
    """Reads config.json, and refuses settings that the checkpoint cannot honour."""
    try:
        values = {**BERT_DEFAULTS, **json.loads(path.read_text(encoding="utf-8"))}
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise FusionError(f"cannot read {path}: {error}") from error
    if values.get("model_type", "bert") != "bert":
        raise FusionError(f"{path}: model_type {values['model_type']!r} is not supported; valid: bert")
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise FusionError(
            f"{path}: position_embedding_type {values['position_embedding_type']!r} is not supported; "
            "valid: absolute"
        )
    if values["hidden_act"] not in ACTIVATIONS:
        raise FusionError(
            f"{path}: hidden_act {values['hidden_act']!r}; {choices(values['hidden_act'], ACTIVATIONS)}"
        )
    for name, key in (("width", "hidden_size"), ("heads", "num_attention_heads")):
        if getattr(config, name) != values[key]:
            raise FusionError(f"fusion.{name}={getattr(config, name)}, but {path} has {key} {values[key]}")
    for name, key in (("layers", "num_hidden_layers"), ("max_text", "max_position_embeddings")):
        if getattr(config, name) > values[key]:
            raise FusionError(
                f"fusion.{name}={getattr(config, name)} is more than the {values[key]} {key} of {path}"
            )
    return TrunkShape(
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        mlp_width=values["intermediate_size"],
        vocab_size=values["vocab_size"],
        max_positions=values["max_position_embeddings"],
        norm="post",
        activation=ACTIVATIONS[values["hidden_act"]],
        eps=values["layer_norm_eps"],
    )


def _bert_weights(path: Path) -> dict[str, Tensor]:
    """Reads a checkpoint by BERT's bare names; heads keep their own names and are never asked for."""
    try:
        loaded = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise FusionError(f"cannot read text weights {path}: {error}") from error
    names = {
        name: name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")
        for name in loaded
    }
    weights = {names[name]: tensor for name, tensor in loaded.items()}
    layout = path.with_name(f"{LAYOUT}.safetensors")
    if layout.is_file():
        weights.update({f"{LAYOUT}.{name}": tensor for name, tensor in load_file(layout).items()})
    return weights


def _copy(target: Tensor, trunk: TextTrunk, names: tuple[str, ...]) -> None:
    """Copies weights (joined along their first axis when several) over the first rows of a parameter."""
    for name in names:
        if name not in trunk.weights:
            raise FusionError(f"{trunk.source} lacks {name!r}; {choices(name, list(trunk.weights)[:20])}")
    value = torch.cat([trunk.weights[name] for name in names])
    rows = min(len(value), len(target))
    if value[:rows].shape != target[:rows].shape:
        raise FusionError(
            f"{trunk.source}: {names[0]!r} has shape {tuple(value.shape)}, expected {tuple(target.shape)}"
        )
    with torch.no_grad():
        target[:rows] = value[:rows]


def _of_layer(layer: nn.Linear | nn.LayerNorm, *names: str) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    for part in ("weight", "bias"):
        yield getattr(layer, part), tuple(f"{name}.{part}" for name in names)


def _of_embedder(embedder: TextEmbedder) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    """Each parameter with its name in a BERT checkpoint."""
    yield embedder.words.weight, ("embeddings.word_embeddings.weight",)
    yield embedder.positions.weight, ("embeddings.position_embeddings.weight",)
    yield embedder.types.weight, ("embeddings.token_type_embeddings.weight",)
    yield from _of_layer(embedder.norm, "embeddings.LayerNorm")


def _of_blocks(blocks: Trunk) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    """Each parameter with its name in a BERT checkpoint, or the three names that it is made of."""
    for i, block in enumerate(blocks.blocks):
        assert isinstance(block, Block)
        prefix = f"encoder.layer.{i}"
        yield from _of_layer(
            block.qkv, *(f"{prefix}.attention.self.{part}" for part in ("query", "key", "value"))
        )
        yield from _of_layer(block.out, f"{prefix}.attention.output.dense")
        assert isinstance(block.attention_norm, nn.LayerNorm)
        yield from _of_layer(block.attention_norm, f"{prefix}.attention.output.LayerNorm")
        yield from _of_layer(block.up, f"{prefix}.intermediate.dense")
        yield from _of_layer(block.down, f"{prefix}.output.dense")
        yield from _of_layer(block.mlp_norm, f"{prefix}.output.LayerNorm")


def initialise_embedder(embedder: TextEmbedder, trunk: TextTrunk) -> None:
    """Copies a checkpoint's embeddings; a visual type that it lacks keeps its random start. Nothing for
    "scratch"."""
    if trunk.weights:
        for target, names in _of_embedder(embedder):
            _copy(target, trunk, names)


def initialise_blocks(blocks: Trunk, trunk: TextTrunk) -> None:
    """Copies a checkpoint's layers into the blocks, first to first. Nothing for "scratch"."""
    if trunk.weights:
        for target, names in _of_blocks(blocks):
            _copy(target, trunk, names)


def initialise_norm(norm: nn.LayerNorm, trunk: TextTrunk) -> None:
    """Copies the LayerNorm of a checkpoint's embeddings, so that new tokens enter as large as words. Nothing for
    "scratch"."""
    if trunk.weights:
        for target, names in _of_layer(norm, "embeddings.LayerNorm"):
            _copy(target, trunk, names)


def initialise_positions(positions: BoxPositions, trunk: TextTrunk) -> None:
    """Copies the box positions of a checkpoint that was trained with boxes; nothing for any other."""
    if f"{LAYOUT}.project.weight" in trunk.weights:
        for target, names in _of_layer(positions.project, "project"):
            _copy(target, trunk, tuple(f"{LAYOUT}.{name}" for name in names))


def save_text_trunk(folder: Path, *, text: TextEmbedder, trunk: Trunk, positions: BoxPositions) -> None:
    """Writes model.safetensors by BERT's names, which `BertModel` reads too, and layout.safetensors."""
    state: dict[str, Tensor] = {}
    for value, names in (*_of_embedder(text), *_of_blocks(trunk)):
        state.update(zip(names, value.detach().chunk(len(names)), strict=True))
    for file, tensors in (
        ("model", state),
        (LAYOUT, {name: value.detach() for value, (name,) in _of_layer(positions.project, "project")}),
    ):
        tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(tensors, folder / f"{file}.safetensors", metadata={"format": "pt"})
