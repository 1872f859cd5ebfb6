"""Encoders by timm: a model name, a Hugging Face hub repository (`timm:org/name`), or a local folder with
timm's `config.json` and `model.safetensors`.

Tokens are `forward_features`, or with `layer` the blocks or stages that `forward_intermediates` gives, not
normalised. With `size`, timm itself builds the model for it and interpolates the position embeddings. The fingerprint
covers what timm built (`built`), not what it was asked for: a name's arguments lie in timm, a hub repository's in its
config, and both may change while the weights stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import timm
from timm import data as timm_data

from encoders.base import Encoder, digest_json, one_line
from encoders.checkpoint import local_files, no_revision, whole_patches
from encoders.described import from_timm
from encoders.errors import EncoderError, nearest
from encoders.module import Forward, ModuleEncoder
from encoders.options import Layer
from encoders.pooling import TokenGrid, from_map, from_sequence, grid_shape
from encoders.spec import EncoderSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError)
IDLE = ("Identity", "Dropout", "Dropout2d", "DropPath", "PatchDropout", "PatchDropoutWithIndices")
"""Kinds of module that do nothing outside training."""
NO_PART = ("training", "grad_checkpointing", "drop_rate", "num_classes", "global_pool", "fused_attn")
"""Attributes that no token depends on: training's, the head's, and a kernel that timm chooses by what torch has."""


def load_timm(spec: EncoderSpec, *, device: str) -> Encoder:
    """The timm model that the spec names, with its pretrained weights.

    Raises:
        EncoderError: there is no such model, folder or layer, or its weights cannot be had.
    """
    source, pinned = _source(spec)
    size = spec.settings().size
    try:
        module = _create(source, size, **pinned)
    except FAILURES as error:
        raise EncoderError(f"timm cannot load encoder {spec}: {one_line(error)}") from error
    trunk: Any = module
    _right_activation(spec, trunk.pretrained_cfg)
    library_data: Any = timm_data
    whole_patches(spec, getattr(getattr(trunk, "patch_embed", None), "patch_size", None))
    if hasattr(trunk, "reset_classifier"):
        trunk.reset_classifier(0)  # features need no head, and another head is no other encoder
    asked = {} if size is None else {"input_size": (3, *size)}
    return ModuleEncoder(
        spec,
        module=module,
        forward=trunk_forward(module),
        preprocess=from_timm(library_data.resolve_model_data_config(module, args=asked)),
        architecture=_architecture(spec, module, trunk.pretrained_cfg.get("architecture")),
        device=device,
    )


class Ways(NamedTuple):
    """What one image shows of timm's two ways to a model's features.

    Attributes:
        num_layers: how many blocks or stages `forward_intermediates` gives.
        one_end: whether it ends with what `forward_features` gives, to the bit.
    """

    num_layers: int
    one_end: bool


def trunk_forward(module: nn.Module) -> Forward:
    """A timm model's tokens with their layout, for any model with token or map features.

    One pass gives blocks and final features, where the model's own two ways end alike; else each takes its own.
    """
    trunk: Any = module
    seen: list[Ways] = []

    def ways(images: Tensor) -> Ways:
        if not seen:
            seen.append(_ways(trunk, images[:1]))
        return seen[0]

    def forward(images: Tensor, layers: Sequence[Layer]) -> list[TokenGrid]:
        numbers = [layer for layer in layers if layer is not None]
        found: dict[Layer, TokenGrid] = {}
        features = None
        if numbers:
            to_the_end = None in layers and ways(images).one_end
            mixed = min(numbers) < 0 <= max(numbers)
            places = [number + ways(images).num_layers if mixed and number < 0 else number for number in numbers]
            taken, features = _intermediates(trunk, images, places, to_the_end=to_the_end)
            found.update(zip(numbers, taken, strict=True))
        if None in layers:
            found[None] = _with_layout(trunk, trunk.forward_features(images) if features is None else features, images)
        return [found[layer] for layer in layers]

    return forward


def _ways(trunk: Any, image: Tensor) -> Ways:
    features, taken = _walk(trunk, image, None, to_the_end=True)
    final = trunk.forward_features(image)
    return Ways(len(taken), isinstance(final, Tensor) and isinstance(features, Tensor) and torch.equal(features, final))


def _intermediates(
    trunk: Any, images: Tensor, numbers: Sequence[int], *, to_the_end: bool
) -> tuple[list[TokenGrid], Tensor | None]:
    """Those blocks' or stages' outputs, in the order asked (timm's is the model's), and the final features if asked."""
    order = sorted(set(numbers))
    features, taken = _walk(trunk, images, order, to_the_end=to_the_end)
    found = dict(zip(order, taken, strict=True))
    return [_from_intermediate(found[number]) for number in numbers], features


def _walk(trunk: Any, images: Tensor, indices: list[int] | None, *, to_the_end: bool) -> tuple[Any, list[Any]]:
    """timm's `forward_intermediates`, to the last block that is asked for, or to the final features."""
    if not hasattr(trunk, "forward_intermediates"):
        raise ValueError(f"timm gives no intermediate features of {type(trunk).__name__}; leave layer away")
    takes = inspect.signature(trunk.forward_intermediates).parameters
    prefixed = "return_prefix_tokens" in takes and getattr(trunk, "num_prefix_tokens", 1) > 0
    more = {"return_prefix_tokens": True} if prefixed else {}
    options = {"indices": indices, "output_fmt": "NCHW", "norm": False, **more}
    if to_the_end:
        features, taken = trunk.forward_intermediates(images, intermediates_only=False, **options)
        return features, taken
    return None, trunk.forward_intermediates(images, intermediates_only=True, stop_early=True, **options)


def _from_intermediate(taken: Any) -> TokenGrid:
    if isinstance(taken, Tensor):
        return from_map(taken)
    grid, prefix = taken
    return TokenGrid(from_map(grid).prefix if prefix is None else prefix, from_map(grid).grid)


def _with_layout(trunk: Any, features: Any, images: Tensor) -> TokenGrid:
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"{type(trunk).__name__} gives features of shape {shape}, not a grid of tokens")
    if features.ndim == 4:
        if str(getattr(trunk, "output_fmt", "NCHW")).endswith("NHWC"):
            return from_map(features.permute(0, 3, 1, 2))
        return from_map(features)
    height, width = int(images.shape[2]), int(images.shape[3])
    patches: Any = getattr(trunk, "patch_embed", None)
    for num_prefix in _prefixes(trunk):
        grid: tuple[int, int] | None = grid_shape(features.shape[1] - num_prefix, height=height, width=width)
        if hasattr(patches, "dynamic_feat_size"):
            grid = patches.dynamic_feat_size((height, width))
        elif not hasattr(trunk, "num_prefix_tokens") and grid == (1, 1):
            continue  # a class token alone, such as PiT's
        if grid is not None and num_prefix + grid[0] * grid[1] == features.shape[1]:
            return from_sequence(features, num_prefix=num_prefix, rows=int(grid[0]), columns=int(grid[1]))
    hint = "; layer=-1 gives its last map" if hasattr(trunk, "forward_intermediates") else ""
    raise ValueError(
        f"{type(trunk).__name__} gives {features.shape[1]} tokens of a {height}x{width} image, which are no grid{hint}"
    )


def _prefixes(trunk: Any) -> tuple[int, ...]:
    """How many prefix tokens a model may have: what it says, or one where it has a class token (CoaT, VOLO)."""
    if hasattr(trunk, "num_prefix_tokens"):
        return (int(trunk.num_prefix_tokens),)
    return (1,) if any("cls_token" in name for name, _ in trunk.named_parameters()) else (0, 1)


def _create(source: str, size: tuple[int, int] | None, **pinned: Any) -> nn.Module:
    """The model with its weights, for an input size where it is built for one; convolutions take any."""
    if size is None:
        return timm.create_model(source, pretrained=True, **pinned)
    try:
        return timm.create_model(source, pretrained=True, img_size=size, **pinned)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(source, pretrained=True, **pinned)


def _source(spec: EncoderSpec) -> tuple[str, dict[str, Any]]:
    """timm's name of the model, and what pins the weights of one that timm itself names."""
    folder, revision = spec.local, spec.settings().revision
    if folder is not None:
        no_revision(spec)
        local_files(spec, folder, config=CONFIG, weights=WEIGHTS, needs=("architecture",))
        return f"local-dir:{folder}", {}
    if "/" in spec.name:
        return f"hf-hub:{spec.name}" + (f"@{revision}" if revision else ""), {}
    if not timm.is_model(spec.name.partition(".")[0]):
        raise EncoderError(f"unknown timm model in encoder {spec}: {nearest(spec.name, timm.list_models())}")
    tags = [name for name in timm.list_pretrained(f"{spec.name.partition('.')[0]}*")]
    if "." in spec.name and spec.name not in tags:
        raise EncoderError(f"unknown pretrained tag in encoder {spec}: {nearest(spec.name, tags)}")
    if revision is None:
        return spec.name, {}
    repository = getattr(timm.get_pretrained_cfg(spec.name), "hf_hub_id", None)
    if not repository:
        raise EncoderError(
            f"revision={revision} in encoder {spec}: timm has these weights from no hub repository, and only those "
            "have revisions: leave it away"
        )
    return spec.name, {"pretrained_cfg_overlay": {"hf_hub_id": f"{repository}@{revision}"}}


def _right_activation(spec: EncoderSpec, pretrained: Mapping[str, Any]) -> None:
    """Refuses CLIP weights of which timm has a second model, with the activation that they were trained with.

    Raises:
        EncoderError: the spec names the other one, whose features are not those of the checkpoint.
    """
    architecture, tag = str(pretrained.get("architecture")), pretrained.get("tag")
    right = f"{architecture.replace('_clip_', '_clip_quickgelu_')}.{tag}"
    if tag and "_clip_quickgelu_" not in architecture and right in timm.list_pretrained("*_clip_quickgelu_*"):
        raise EncoderError(
            f"encoder {spec} runs weights that were trained with QuickGELU with another activation: name timm:{right}"
        )


def _architecture(spec: EncoderSpec, module: nn.Module, name: str | None) -> dict[str, Any]:
    """What timm builds the model from, beside its weights."""
    described = {"library": "timm", "model": name, "built": built(module)}
    size = spec.settings().size
    return described if size is None else {**described, "size": list(size)}


def built(module: nn.Module) -> str:
    """SHA-256 in hex over a model's parts by name: their kinds, and their numbers, words and functions (head counts,
    scales, epsilons, activations).

    What is false, zero or absent is left out, so that an option that timm adds, and does not use, changes nothing.
    """
    parts = {}
    for place, part in module.named_modules():
        if type(part).__name__ not in IDLE:
            values = {key: _plain(value) for key, value in vars(part).items() if key[0] != "_" and key not in NO_PART}
            parts[place] = [type(part).__name__, {key: value for key, value in values.items() if value}]
    return digest_json(parts)


def _plain(value: Any) -> Any:
    """An attribute as a JSON value; None where it is no number, word or function, nor several of those."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, partial):
        return [_plain(value.func), _plain(value.args), {key: _plain(one) for key, one in value.keywords.items()}]
    if isinstance(value, (tuple, list)):
        several = [_plain(one) for one in value]
        return several if any(several) else None
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else None
