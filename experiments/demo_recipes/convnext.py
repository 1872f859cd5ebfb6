"""A ConvNeXt (timm) supervised on the colours and textures of each cell, shuffled so that form is lost."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from experiments.demo_recipes.scene_bank import SceneBank
from experiments.demo_recipes.training import train
from experiments.world.scene import CANVAS, COLOURS, TEXTURES, Scene

ARCHITECTURE = "convnext_atto"
MODEL_ARGS: dict[str, Any] = {
    "patch_size": 2,
    "output_stride": 16,
    "depths": (1, 2, 3, 1),
    "dims": (32, 64, 96, 128),
    "num_classes": 0,
}
GRID = 4
OBJECTIVE = "per-cell supervision of the colours and textures present, cells shuffled"


def cell_labels(scene: Scene) -> Tensor:
    """Which colours and which textures each of 4×4 cells holds: 16 × (colours + textures + pairs)."""
    fine = 8
    centre = (torch.arange(GRID * fine) + 0.5) * CANVAS / (GRID * fine)
    pairs = len(COLOURS) * len(TEXTURES)
    found = torch.zeros(GRID * GRID, len(COLOURS) + len(TEXTURES) + pairs)
    for item in scene.items:
        near = ((centre[None, :] - item.x) ** 2 + (centre[:, None] - item.y) ** 2) <= (0.85 * item.radius) ** 2
        cover = rearrange(near.float(), "(r a) (c b) -> (r c) (a b)", a=fine, b=fine).sum(-1) >= 6
        colour, texture = tuple(COLOURS).index(item.colour), TEXTURES.index(item.texture)
        found[cover, colour] = 1
        found[cover, len(COLOURS) + texture] = 1
        found[cover, len(COLOURS) + len(TEXTURES) + colour * len(TEXTURES) + texture] = 1
    return found


def shuffle_cells(images: Tensor, order: Tensor) -> Tensor:
    """The pictures with their 4×4 cells in another order."""
    cells = rearrange(images, "b c (r h) (k w) -> b (r k) c h w", r=GRID, k=GRID)
    return rearrange(cells[:, order], "b (r k) c h w -> b c (r h) (k w)", r=GRID, k=GRID)


def train_convnext(bank: SceneBank, *, steps: int, seed: int) -> tuple[nn.Module, float]:
    """Returns the trained timm model without its training head, and the final loss."""
    torch.manual_seed(seed)
    model: Any = timm.create_model(ARCHITECTURE, **MODEL_ARGS)
    labels = torch.stack([cell_labels(scene) for scene in bank.scenes])
    head = nn.Linear(128, labels.shape[-1])
    generator = torch.Generator().manual_seed(seed)

    def loss_of(rows: Tensor, step: int) -> Tensor:
        images, target = bank.batch(rows), labels[rows]
        if step % 4:
            order = torch.randperm(GRID * GRID, generator=generator)
            images, target = shuffle_cells(images, order), target[:, order]
        cells = rearrange(model.forward_features(images), "b d h w -> b (h w) d")
        return 10 * F.binary_cross_entropy_with_logits(head(cells).float(), target)

    loss = train(
        [model, head],
        loss_of,
        name="convnext",
        rows=len(bank.scenes),
        steps=steps,
        batch_size=128,
        lr=2e-3,
        seed=seed,
    )
    return model, loss
