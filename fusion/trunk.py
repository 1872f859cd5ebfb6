"""Where a trunk's weights come from: random, the demo's, a text encoder of transformers, or a ViT.

Handed the settings, reads config.json, model.safetensors and tokenizer.json of the folder they name and hands
on a `TextTrunk`: shape, tokenizer and weights by BERT's names; the functions below then copy the weights into text
embeddings and blocks. The folder is what `save_pretrained` writes, with or without a head; where the text model was
trained on words with boxes, layout.safetensors beside it holds its box positions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion.architectures import TEXT_MODELS, VISION_MODELS, Architecture, timm_values
from fusion.checkpoint_folder import as_float, find_folder, read_tensors, read_values
from fusion.config import FusionConfig
from fusion.errors import FusionError, choices
from fusion.positions import BoxPositions
from fusion.text import TextEmbedder, TextTokenizer
from fusion.transformer import Block, Trunk, TrunkShape

DEMO_FOLDER = Path(__file__).parent / "demo_text"
LAYOUT = "layout"

@dataclass(frozen=True, slots=True, eq=False)
class TextTrunk:
    """A text model to start from.

    Attributes:
        shape: of the blocks and the embeddings.
        tokenizer: that the word embeddings belong to.
        weights: of the checkpoint by BERT's names, without the "bert." prefix; those of blocks or embeddings
            that start from random ones are left out.
        source: the file that the weights came from, for error messages.
    """

    shape: TrunkShape
    tokenizer: TextTokenizer
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    source: str = "scratch"


def load_text_trunk(config: FusionConfig) -> TextTrunk:
    """Returns the trunk that the settings name: text embeddings of `text`, blocks of `trunk` or else of `text`.

    Raises:
        FusionError: the folder or one of its files is missing or of another architecture, or `width`, `heads`
            or `layers` cannot be honoured by the checkpoint.
    """
    text = _scratch(config) if config.text == "scratch" else _load_text(config)
    return text if config.trunk is None else _with_vision_blocks(text, config)


def _scratch(config: FusionConfig) -> TextTrunk:
    tokenizer = TextTokenizer.load(DEMO_FOLDER if config.tokenizer is None else Path(config.tokenizer))
    shape = TrunkShape(
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        mlp_width=max(1, round(config.mlp_ratio * config.width)),
        vocab_size=tokenizer.vocab_size,
        max_positions=config.max_text,
    )
    return TextTrunk(shape, tokenizer)


def _load_text(config: FusionConfig) -> TextTrunk:
    words = ("demo", "scratch")
    folder = DEMO_FOLDER if config.text == "demo" else find_folder(config.text, setting="fusion.text", words=words)
    architecture, values = _architecture(folder, TEXT_MODELS)
    path = folder / "config.json"
    found = architecture.shape(values, path=str(path))
    shape = _chosen(found, config, architecture, path=path, blocks=config.trunk is None)
    tokenizer = TextTokenizer.load(folder)
    if tokenizer.vocab_size > shape.vocab_size:
        raise FusionError(
            f"{folder / 'tokenizer.json'} has {tokenizer.vocab_size} tokens, more than the "
            f"{shape.vocab_size} of config.json"
        )
    tensors, source = read_tensors(folder)
    weights = architecture.weights(as_float(tensors), values)
    layout = folder / f"{LAYOUT}.safetensors"
    if layout.is_file():
        weights.update({f"{LAYOUT}.{name}": tensor for name, tensor in load_file(layout).items()})
    return TextTrunk(shape, tokenizer, weights, str(source))


def _architecture(folder: Path, table: Mapping[str, Architecture]) -> tuple[Architecture, dict[str, Any]]:
    """Returns the architecture of a folder, and the values of its config.json."""
    values = read_values(folder, kinds=table)
    kind = values["model_type"]
    return table[kind], timm_values(values) if kind == "timm" else values


def _chosen(
    found: Mapping[str, Any], config: FusionConfig, architecture: Architecture, *, path: Path, blocks: bool
) -> TrunkShape:
    """Returns the checkpoint's shape with the settings' number of layers, and refuses what it cannot honour."""
    keys = architecture.keys
    fixed = ("width", "heads") if blocks else ("width",)
    wrong = [name for name in fixed if getattr(config, name) != found[name]]
    if wrong:
        asked = ", ".join(f"fusion.{name}={getattr(config, name)}" for name in wrong)
        has = ", ".join(f"{keys[name]} {found[name]}" for name in wrong)
        most = f" and fusion.layers={found['layers']} or fewer" if blocks else ""
        needed = " ".join(f"fusion.{name}={found[name]}" for name in fixed)
        raise FusionError(f"{asked}, but {path} has {has}; nearest: {needed}{most}")
    if blocks and config.layers > found["layers"]:
        raise FusionError(
            f"fusion.layers={config.layers} is more than the {found['layers']} {keys['layers']} of {path}"
        )
    if "max_positions" in found and config.max_text > found["max_positions"]:
        raise FusionError(
            f"fusion.max_text={config.max_text} is more than the {found['max_positions']} positions of {path} "
            f"({keys['max_positions']})"
        )
    local = tuple(layer for layer in found.get("local_layers", ()) if layer < config.layers)
    return TrunkShape(**{**found, "layers": config.layers, "heads": config.heads, "local_layers": local})


def _with_vision_blocks(text: TextTrunk, config: FusionConfig) -> TextTrunk:
    """Returns the text's embeddings with the blocks of the ViT that `config.trunk` names."""
    if text.shape.positions != "absolute":
        raise FusionError(
            f"fusion.trunk={config.trunk!r} needs word positions in the text's embeddings, but "
            f"fusion.text={config.text!r} has {text.shape.positions} ones; nearest: fusion.text='scratch'"
        )
    assert config.trunk is not None
    folder = find_folder(config.trunk, setting="fusion.trunk")
    architecture, values = _architecture(folder, VISION_MODELS)
    path = folder / "config.json"
    tensors, source = read_tensors(folder)
    weights = architecture.weights(as_float(tensors), values)
    if "mlp_width" not in values:  # timm leaves it to the weights
        values = {**values, "mlp_width": len(weights.get("encoder.layer.0.intermediate.dense.bias", ()))}
    found = architecture.shape(values, path=str(path))
    shape = replace(
        _chosen({**found, **_words(text.shape)}, config, architecture, path=path, blocks=True),
        text_eps=text.shape.eps,
    )
    embeddings = {name: value for name, value in text.weights.items() if name.startswith(("embeddings.", LAYOUT))}
    blocks = {name: value for name, value in weights.items() if name.startswith(("encoder.", "final_norm."))}
    return TextTrunk(shape, text.tokenizer, {**embeddings, **blocks}, f"{text.source} and {source}")


def _words(shape: TrunkShape) -> dict[str, int]:
    return {"vocab_size": shape.vocab_size, "max_positions": shape.max_positions}


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
    if embedder.absolute:
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
        if isinstance(block.attention_norm, nn.LayerNorm):
            yield from _of_layer(block.attention_norm, f"{prefix}.attention.output.LayerNorm")
        yield from _of_layer(block.up, f"{prefix}.intermediate.dense")
        yield from _of_layer(block.down, f"{prefix}.output.dense")
        yield from _of_layer(block.mlp_norm, f"{prefix}.output.LayerNorm")
    if isinstance(blocks.final_norm, nn.LayerNorm):
        yield from _of_layer(blocks.final_norm, "final_norm")


def initialise_embedder(embedder: TextEmbedder, trunk: TextTrunk) -> None:
    """Copies a checkpoint's embeddings; a visual type that it lacks keeps its random start. Nothing for
    "scratch"."""
    if "embeddings.word_embeddings.weight" in trunk.weights:
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
    if "embeddings.LayerNorm.weight" in trunk.weights:
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
