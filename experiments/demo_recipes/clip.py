"""A CLIP (open_clip) trained by contrast of pictures and captions; alone in having been told the written words."""

from __future__ import annotations

from typing import Any

import open_clip  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from experiments.demo_recipes.scene_bank import INPUT, MEAN, STD, SceneBank
from experiments.demo_recipes.training import train

CONTEXT = 32
OBJECTIVE = (
    "contrast of pictures and captions (InfoNCE, batch 192), captions name attributes, relations and written words"
)


def model_config(vocabulary: int) -> dict[str, Any]:
    """The open_clip configuration: two small towers over a closed vocabulary."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": INPUT, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocabulary,
                "width": 64,
                "heads": 4,
                "layers": 3,
                "hf_tokenizer_name": ".",
                "pool_type": "argmax",
            },
        },
        "preprocess_cfg": {
            "size": [INPUT, INPUT],
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "mode": "RGB",
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        },
    }


def train_clip(
    bank: SceneBank, tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int
) -> tuple[nn.Module, float]:
    """Returns the trained open_clip model and the final loss."""
    torch.manual_seed(seed)
    config = model_config(len(tokenizer))["model_cfg"]
    config["text_cfg"].pop("hf_tokenizer_name")
    model = open_clip.CLIP(**config)
    flat = [text for texts in bank.captions for text in texts]
    ids = tokenizer(flat, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt")["input_ids"]
    ids = ids.view(len(bank.captions), -1, CONTEXT)
    generator = torch.Generator().manual_seed(seed)
    batch_size = 192

    def loss_of(rows: Tensor, step: int) -> Tensor:
        which = torch.randint(ids.shape[1], (batch_size,), generator=generator)
        image = model.encode_image(bank.batch(rows), normalize=True).float()
        text = model.encode_text(ids[rows, which], normalize=True).float()
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        target = torch.arange(batch_size)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    loss = train(
        [model],
        loss_of,
        name="clip",
        rows=len(bank.scenes),
        steps=steps,
        batch_size=batch_size,
        lr=1.5e-3,
        seed=seed,
    )
    return model, loss
