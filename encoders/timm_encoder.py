"""Encoders by timm: a model name, a Hugging Face hub repository (`timm:org/name`), or a local folder with
timm's `config.json` and `model.safetensors`.

Tokens are `forward_features`, or with `layer` the block or stage that `forward_intermediates` gives, not
normalised.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import timm
from timm import data as timm_data

from encoders.base import Encoder, Forward, ModuleEncoder, one_line
from encoders.checkpoint import local_files, read_json
from encoders.errors import EncoderError, nearest
from encoders.pooling import TokenGrid, from_map, from_sequence
from encoders.preprocess import from_timm
from encoders.spec import EncoderSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def load_timm(spec: EncoderSpec, *, device: str) -> Encoder:
    """The timm model that the spec names, with its pretrained weights.

    Raises:
        EncoderError: there is no such model, folder or layer, or its weights cannot be had.
    """
    source = _source(spec)
    try:
        module = timm.create_model(source, pretrained=True)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise EncoderError(f"timm cannot load encoder {spec}: {one_line(error)}") from error
    trunk: Any = module
    library_data: Any = timm_data
    if hasattr(trunk, "reset_classifier"):
        trunk.reset_classifier(0)  # features need no head, and another head is no other encoder
    return ModuleEncoder(
        spec,
        module=module,
        forward=trunk_forward(module, layer=spec.settings().layer),
        preprocess=from_timm(library_data.resolve_model_data_config(module)),
        architecture=_architecture(spec, trunk.pretrained_cfg),
        device=device,
    )


def trunk_forward(module: nn.Module, *, layer: int | None) -> Forward:
    """A timm model's tokens with their layout, for any model with token or map features."""
    trunk: Any = module

    def final(images: Tensor) -> TokenGrid:
        return _with_layout(trunk, trunk.forward_features(images), images)

    def intermediate(images: Tensor) -> TokenGrid:
        takes = inspect.signature(trunk.forward_intermediates).parameters
        more = {"return_prefix_tokens": True} if "return_prefix_tokens" in takes else {}
        [taken] = trunk.forward_intermediates(
            images,
            indices=[layer],
            output_fmt="NCHW",
            norm=False,
            stop_early=True,
            intermediates_only=True,
            **more,
        )
        if isinstance(taken, Tensor):
            return from_map(taken)
        grid, prefix = taken
        return TokenGrid(from_map(grid).prefix if prefix is None else prefix, from_map(grid).grid)

    if layer is None:
        return final
    if not hasattr(trunk, "forward_intermediates"):
        raise EncoderError(f"layer={layer}: timm gives no intermediate features of {type(module).__name__}")
    return intermediate


def _with_layout(trunk: Any, features: Tensor, images: Tensor) -> TokenGrid:
    if features.ndim == 4:
        if str(getattr(trunk, "output_fmt", "NCHW")).endswith("NHWC"):
            return from_map(features.permute(0, 3, 1, 2))
        return from_map(features)
    num_prefix = int(getattr(trunk, "num_prefix_tokens", 0))
    height, width = images.shape[2:]
    patches = getattr(trunk, "patch_embed", None)
    if patches is not None and hasattr(patches, "dynamic_feat_size"):
        rows, columns = patches.dynamic_feat_size((height, width))
    else:
        rows = columns = round((features.shape[1] - num_prefix) ** 0.5)
    if features.ndim != 3 or num_prefix + rows * columns != features.shape[1]:
        raise ValueError(
            f"{type(trunk).__name__} gives features of shape {tuple(features.shape)}, not a grid of tokens"
        )
    return from_sequence(features, num_prefix=num_prefix, rows=int(rows), columns=int(columns))


def _source(spec: EncoderSpec) -> str:
    folder = spec.local
    if folder is not None:
        local_files(spec, folder, config=CONFIG, weights=WEIGHTS, needs=("architecture",))
        return f"local-dir:{folder}"
    if "/" in spec.name:
        return f"hf-hub:{spec.name}"
    if not timm.is_model(spec.name.partition(".")[0]):
        raise EncoderError(f"unknown timm model in encoder {spec}: {nearest(spec.name, timm.list_models())}")
    tags = [name for name in timm.list_pretrained(f"{spec.name.partition('.')[0]}*")]
    if "." in spec.name and spec.name not in tags:
        raise EncoderError(f"unknown pretrained tag in encoder {spec}: {nearest(spec.name, tags)}")
    return spec.name


def _architecture(spec: EncoderSpec, pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """What timm builds the model from, beside its weights."""
    folder = spec.local
    config = {} if folder is None else read_json(spec, folder / CONFIG)
    arguments = config.get("model_args", {})
    return {"library": "timm", "model": pretrained.get("architecture"), "arguments": arguments}
