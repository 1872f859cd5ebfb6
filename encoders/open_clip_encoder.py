"""Encoders by open_clip: the image tower of MODEL/PRETRAINED, of a hub repository (`hf-hub:org/name`), or of
a local folder with `open_clip_config.json` and `open_clip_model.safetensors`.

Tokens of a ViT tower are the last block's, class token first, after `ln_post` and before the projection into
the shared space; with `layer` that block's, not normalised. (Towers with attentional pooling have their norm
after the pool, so theirs are not normalised either.) ResNet towers give their last map, timm towers what timm
gives.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import open_clip  # type: ignore[import-untyped,unused-ignore]

from encoders.base import Encoder, Forward, ModuleEncoder, one_line
from encoders.checkpoint import local_files
from encoders.errors import EncoderError, nearest
from encoders.pooling import TokenGrid, from_map
from encoders.preprocess import from_open_clip
from encoders.spec import EncoderSpec

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def load_open_clip(spec: EncoderSpec, *, device: str) -> Encoder:
    """The image tower that the spec names; the text tower is dropped.

    Raises:
        EncoderError: there is no such model, tag, folder or layer, or its weights cannot be had.
    """
    model_name, pretrained = _source(spec)
    try:
        model = open_clip.create_model(model_name, pretrained=pretrained, require_pretrained=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise EncoderError(f"open_clip cannot load encoder {spec}: {one_line(error)}") from error
    visual: Any = model.visual
    return ModuleEncoder(
        spec,
        module=visual,
        forward=tower_forward(visual, layer=spec.settings().layer),
        preprocess=from_open_clip(visual.preprocess_cfg),
        architecture={"library": "open_clip", **_architecture(spec, model_name)},
        device=device,
    )


def tower_forward(visual: Any, *, layer: int | None) -> Forward:
    """An open_clip image tower's tokens with their layout."""
    if hasattr(visual, "trunk"):
        from encoders.timm_encoder import trunk_forward

        return trunk_forward(visual.trunk, layer=layer)
    normalise = layer is None and getattr(visual, "attn_pool", None) is None
    index = -1 if layer is None else layer

    def forward(images: Tensor) -> TokenGrid:
        output = visual.forward_intermediates(
            images,
            indices=[index],
            stop_early=True,
            normalize_intermediates=normalise,
            intermediates_only=True,
            output_fmt="NCHW",
            output_extra_tokens=True,
        )
        [features] = output["image_intermediates"]
        tokens = from_map(features)
        prefix = output.get("image_intermediates_prefix")
        return TokenGrid(tokens.prefix if prefix is None else prefix[0], tokens.grid)

    return forward


def _source(spec: EncoderSpec) -> tuple[str, str | None]:
    folder = spec.local
    if folder is not None:
        local_files(spec, folder, config=CONFIG, weights=WEIGHTS, needs=("model_cfg",))
        return f"local-dir:{folder}", None
    if spec.name.startswith("hf-hub:"):
        return spec.name, None
    model, _, tag = spec.name.partition("/")
    models = open_clip.list_models()
    if model not in models:
        raise EncoderError(f"unknown open_clip model {model!r} in encoder {spec}: {nearest(model, models)}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise EncoderError(f"unknown pretrained tag {tag!r} in encoder {spec}: {nearest(tag, tags)}")
    return model, tag


def _architecture(spec: EncoderSpec, model_name: str) -> dict[str, Any]:
    """What open_clip builds the tower from, beside its weights."""
    config = open_clip.get_model_config(model_name) or {}
    config = config.get("model_cfg", config)
    tag = spec.name.partition("/")[2] if spec.local is None else ""
    return {"vision": config.get("vision_cfg"), "quick_gelu": bool(config.get("quick_gelu")), "tag": tag}
