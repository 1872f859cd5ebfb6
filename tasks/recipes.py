"""Published fine-tuning settings of each task, beside the model and code that they come from.

For presets: `RECIPES[task]` lists recipes, the one that the `base` preset follows first. No recipe is published for
Hateful Memes by METER, ViLT or LXMERT, nor for GQA by METER or ViLT, nor for SNLI-VE by ViLT.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Settings of one published fine-tuning.

    Attributes:
        lr: of the trunk; `head_lr` and `fusion_lr` are factors on it.
        length: "10 epochs" or "22000 steps", as published.
        source: repository (and commit where one was read) that the numbers are from.
    """

    model: str
    source: str
    loss: str
    lr: float
    batch_size: int
    length: str
    head_lr: float = 1.0
    fusion_lr: float = 1.0
    weight_decay: float = 0.01


METER = "zdou0830/METER f4f0934"
VILT = "dandelin/ViLT 762fd39"
MMF = "facebookresearch/mmf, default branch"
LXMERT = "airsplay/lxmert, default branch"
ALBEF = "salesforce/ALBEF, default branch"
SHARED = {"betas": (0.9, 0.98), "eps": 1e-8, "warmup": 0.1}  # METER's and ViLT's AdamW, linear decay to 0

_RETRIEVAL = (
    Recipe("METER", METER, "1 of 16 texts + 0.5 matching", 5e-6, 512, "10 epochs", head_lr=5, fusion_lr=5),
    Recipe("ViLT", VILT, "1 of 16 texts + 0.5 matching", 1e-4, 256, "10 epochs"),
)
RECIPES: dict[str, tuple[Recipe, ...]] = {
    "vqa": (
        Recipe("METER", METER, "soft-target BCE x 3129", 5e-6, 512, "10 epochs", head_lr=50, fusion_lr=5),
        Recipe("ViLT", VILT, "soft-target BCE x 3129", 1e-4, 256, "10 epochs", head_lr=10),
        Recipe("VisualBERT", MMF, "BCE", 5e-5, 480, "60000 steps"),
        Recipe("LXMERT", LXMERT, "BCE x labels", 5e-5, 32, "4 epochs"),
    ),
    "gqa": (
        Recipe("LXMERT", LXMERT, "BCE x labels, one-hot", 1e-5, 32, "4 epochs"),
        Recipe("VisualBERT", MMF, "BCE", 5e-5, 480, "88000 steps"),
    ),
    "snli_ve": (
        Recipe("METER", METER, "cross-entropy", 2e-6, 64, "5 epochs", head_lr=10, fusion_lr=5),
        Recipe("VisualBERT", MMF, "cross-entropy", 5e-5, 480, "60000 steps"),
    ),
    "flickr30k": (*_RETRIEVAL, Recipe("ALBEF", ALBEF, "contrast + matching", 1e-5, 32, "10 epochs", weight_decay=0.02)),
    "coco": (*_RETRIEVAL, Recipe("ALBEF", ALBEF, "contrast + matching", 1e-5, 32, "5 epochs", weight_decay=0.02)),
    "hateful_memes": (Recipe("VisualBERT", MMF, "cross-entropy", 5e-5, 64, "22000 steps"),),
}
