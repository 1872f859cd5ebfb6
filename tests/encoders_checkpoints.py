"""Checkpoints of named architectures with random weights, in the libraries' folder forms.

Handed a folder and an architecture's name; hands on the files alone: tests load them twice, once through the spec
and once through the library, and compare.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import open_clip
import timm
import transformers
from safetensors.torch import save_file

MEAN, STD = [0.48, 0.46, 0.41], [0.23, 0.24, 0.27]
SMALL_TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1}
BLOCKS: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 16,
}
STAGES: dict[str, Any] = {
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 2,
    "image_size": 64,
}
TOWERS: dict[str, Any] = {
    "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64},
    "vision_config": BLOCKS,
}
HF: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    # At full size, as published: DINOv2 small with registers, DINOv3 small, ConvNeXt V2 atto.
    "dinov2_reg_small": (
        "Dinov2WithRegisters",
        {"hidden_size": 384, "num_attention_heads": 6, "num_register_tokens": 4, "patch_size": 14, "image_size": 518},
        "Bit",
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3},
    ),
    "dinov3_small": ("DINOv3ViT", {"num_register_tokens": 4}, "DINOv3ViT", {"size": {"height": 224, "width": 224}}),
    "convnextv2_atto": (
        "ConvNextV2",
        {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]},
        "ConvNext",
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
    ),
    # Small ones, of the same code.
    "siglip": ("Siglip", TOWERS, "Siglip", {"size": {"height": 64, "width": 64}}),
    "clip": ("CLIP", TOWERS, "CLIP", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
    "siglip_vision": ("SiglipVision", BLOCKS, "Siglip", {"size": {"height": 64, "width": 64}}),
    "swin": ("Swin", {**STAGES, "patch_size": 4}, "ViT", {"size": {"height": 64, "width": 64}}),
    "swinv2": ("Swinv2", {**STAGES, "patch_size": 4}, "ViT", {"size": {"height": 64, "width": 64}}),
    "beit": ("Beit", BLOCKS, "Beit", {"size": {"height": 64, "width": 64}, "do_center_crop": False}),
    "deit": ("DeiT", BLOCKS, "DeiT", {"size": {"height": 72, "width": 72}, "crop_size": {"height": 64, "width": 64}}),
    "ijepa": ("IJepa", BLOCKS, "ViT", {"size": {"height": 64, "width": 64}}),
    "aimv2": ("Aimv2Vision", BLOCKS, "CLIP", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
    "dinov3_convnext": (
        "DINOv3ConvNext",
        {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
        "DINOv3ViT",
        {"size": {"height": 64, "width": 64}},
    ),
    "resnet": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        "ConvNext",
        {"size": {"shortest_edge": 64}, "crop_pct": 0.875},
    ),
    "levit": (
        "Levit",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]},
        "Levit",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
    ),
    "mae": ("ViTMAE", BLOCKS, "ViT", {"size": {"height": 64, "width": 64}}),
    "hiera": (
        "Hiera",
        {"embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]},
        "Bit",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
    ),
    "pvt_v2": (
        "PvtV2",
        {"image_size": 64, "hidden_sizes": [24, 32, 40, 48], "num_attention_heads": [1, 2, 2, 4], "depths": [1] * 4},
        "ViT",
        {"size": {"height": 64, "width": 64}},
    ),
    "cvt": (
        "Cvt",
        {"embed_dim": [24, 32, 40], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
        "ConvNext",
        {"size": {"shortest_edge": 64}, "crop_pct": 0.875},
    ),
    # Classifiers, as they are published: without the pooler that the plain model has.
    "vit_classifier": ("ViTForImageClassification", BLOCKS, "ViT", {"size": {"height": 64, "width": 64}}),
    "deit_classifier": ("DeiTForImageClassification", BLOCKS, "ViT", {"size": {"height": 64, "width": 64}}),
    "dinov2_classifier": ("Dinov2ForImageClassification", BLOCKS, "ViT", {"size": {"height": 64, "width": 64}}),
    "swin_classifier": (
        "SwinForImageClassification",
        {**STAGES, "patch_size": 4},
        "ViT",
        {"size": {"height": 64, "width": 64}},
    ),
}
"""Name -> model or its class, its config's values, image processor, its values."""


def timm_checkpoint(folder: Path, architecture: str, *, args: dict[str, Any] | None = None, **described: Any) -> None:
    """timm's model of this name, for the input size that timm gives it."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=0, **(args or {}))
    size = (args or {}).get("img_size", model.pretrained_cfg["input_size"][-1])
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": args or {},
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "num_classes": 0,
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "fixed_input_size": "img_size" in (args or {}),
            **described,
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")


def open_clip_checkpoint(
    folder: Path, vision: str | dict[str, Any], *, layers: int | None = None, **preprocess: Any
) -> None:
    """open_clip's model of this name, or whose image tower has this config, with a small text tower.

    Args:
        layers: blocks of the image tower, where it is to have fewer than its name says.
    """
    torch.manual_seed(0)
    config: dict[str, Any] = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": {}}
    if isinstance(vision, str):
        config = {key: value for key, value in open_clip.get_model_config(vision).items()}
    if layers is not None:
        config["vision_cfg"] = {**config["vision_cfg"], "layers": layers}
    for part in {"text_cfg", "multimodal_cfg"} & set(config):
        kept = {key: value for key, value in config[part].items() if not key.startswith(("hf_", "tokenizer"))}
        config[part] = {**kept, **SMALL_TEXT}
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CLIP
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"})
    described = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest", **preprocess}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": described}))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def hf_checkpoint(folder: Path, name: str) -> None:
    """transformers' model and image processor of this entry of `HF`."""
    torch.manual_seed(0)
    kind, values, processor, settings = HF[name]
    config = getattr(transformers, f"{kind.removesuffix('ForImageClassification')}Config")(**values)
    model: Any = getattr(transformers, kind if kind.endswith("Classification") else f"{kind}Model")(config)
    model.save_pretrained(folder)
    getattr(transformers, f"{processor}ImageProcessor")(**settings).save_pretrained(folder)
