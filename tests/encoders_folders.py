"""Small checkpoints of real architectures with random weights, in the libraries' folder forms, and images.

Handed a folder; hands on the library's own model or files, so that tests compare with the library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import open_clip
import timm
from PIL import Image
from safetensors.torch import save_file
from transformers import ConvNextImageProcessor, Dinov2Config, Dinov2Model, ViTConfig, ViTModel
from transformers import ViTImageProcessor as VitProcessor

MEAN, STD = [0.48, 0.46, 0.41], [0.23, 0.24, 0.27]


def timm_folder(folder: Path, *, kind: str = "vit", seed: int = 0, **pretrained: Any) -> torch.nn.Module:
    """`vit` has one prefix token and a 4x4 grid of width 48; `convnext` a 2x2 map of width 64."""
    torch.manual_seed(seed)
    if kind == "vit":
        architecture, args = (
            "vit_tiny_patch16_224",
            {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3},
        )
    else:
        architecture, args = "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [16, 24, 32, 64]}
    model = timm.create_model(architecture, pretrained=False, num_classes=5, **args)
    described = {
        "input_size": [3, 64, 64],
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    }
    config = {
        "architecture": architecture,
        "num_classes": 5,
        "model_args": args,
        "pretrained_cfg": {**described, "crop_mode": "center", **pretrained},
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model.eval()


def open_clip_folder(folder: Path, *, seed: int = 0, **preprocess: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    model_cfg = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    model = open_clip.CLIP(**model_cfg)
    with torch.no_grad():
        for norm in (model.visual.ln_post, model.visual.ln_pre):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    described = {
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        **preprocess,
    }
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": described})
    )
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return model.eval()


def hf_folder(folder: Path, *, kind: str = "dinov2", seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 64,
    }
    if kind == "dinov2":
        model: Any = Dinov2Model(Dinov2Config(**sizes, patch_size=16))
    else:
        model = ViTModel(ViTConfig(**sizes, intermediate_size=96, patch_size=16), add_pooling_layer=False)
    model.save_pretrained(folder)
    VitProcessor(size={"height": 64, "width": 64}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return model.eval()


def convnext_processor(folder: Path) -> None:
    ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875).save_pretrained(folder)


def picture(seed: int, *, size: tuple[int, int] = (96, 80), mode: str = "RGB") -> Image.Image:
    """A smooth coloured picture with noise, different for each seed."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.clip(np.asarray(coarse).astype(int) + draw.integers(-20, 21, (size[1], size[0], 3)), 0, 255)
    return Image.fromarray(noisy.astype(np.uint8)).convert(mode)


def pictures(folder: Path, count: int, *, first: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.jpg" for number in range(first, first + count)]
    for number, path in enumerate(paths, start=first):
        picture(number).save(path, quality=90)
    return paths
