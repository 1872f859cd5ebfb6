"""A ViT (timm) supervised densely on shape, size and position, on grey pictures.

Afterwards the patch embedding is folded so that its channels are those of luminance: the model takes RGB pictures as
any timm model does, and two pictures of equal luminance give equal tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.demo_recipes.scene_bank import INPUT, SceneBank
from experiments.demo_recipes.training import train
from experiments.world.renderer import LUMINANCE
from experiments.world.scene import CANVAS, SHAPES, Scene

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS: dict[str, Any] = {
    "img_size": INPUT,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 0,
}
GRID = INPUT // 8
OBJECTIVE = "dense supervision of shape, size and offset to the object's centre, on luminance alone"


def dense_labels(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Per patch: shape (0 = none), size (0 = none), offset to the centre in radii."""
    cell = CANVAS / GRID
    centre = (torch.arange(GRID) + 0.5) * cell
    shape, size = torch.zeros(GRID, GRID, dtype=torch.long), torch.zeros(GRID, GRID, dtype=torch.long)
    offset = torch.zeros(GRID, GRID, 2)
    for item in scene.items:
        dx, dy = item.x - centre[None, :], item.y - centre[:, None]
        near = (dx**2 + dy**2) <= (item.radius + 4) ** 2
        shape[near] = SHAPES.index(item.shape) + 1
        size[near] = 1 if item.size == "small" else 2
        offsets = torch.stack([dx.expand(GRID, GRID), dy.expand(GRID, GRID)], dim=-1) / 20
        offset[near] = offsets[near]
    return shape.flatten(), size.flatten(), offset.flatten(0, 1)


def grey(images: Tensor, generator: torch.Generator) -> Tensor:
    """Luminance in all three channels, with another contrast, brightness and sign for each picture."""
    luminance = torch.einsum("c, b c h w -> b h w", torch.tensor(LUMINANCE), images)[:, None]
    contrast = 0.6 + 0.8 * torch.rand(len(images), 1, 1, 1, generator=generator)
    sign = 1 - 2 * (torch.rand(len(images), 1, 1, 1, generator=generator) < 0.3).float()
    shift = 0.6 * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return (sign * contrast * luminance + shift).expand(-1, 3, -1, -1)


def fold_luminance(model: Any) -> None:
    """Gives the patch embedding luminance's channel weights; on grey pictures the tokens stay what they were."""
    with torch.no_grad():
        weight = model.patch_embed.proj.weight
        share = torch.tensor(LUMINANCE)[None, :, None, None]
        weight.copy_(weight.sum(1, keepdim=True) * share)


def dense_loss(out: Tensor, labels: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of shape and size in each patch, and the distance of the offset where there is an object."""
    shapes, sizes, offsets = labels
    num = len(SHAPES) + 1
    weight = torch.where(shapes > 0, 1.0, 0.3)
    shape = F.cross_entropy(out[..., :num].flatten(0, 1), shapes.flatten(), reduction="none")
    size = F.cross_entropy(out[..., num : num + 3].flatten(0, 1), sizes.flatten(), reduction="none")
    inside = (shapes > 0).float()[..., None]
    place = ((out[..., num + 3 :] - offsets).abs() * inside).sum() / inside.sum().clamp_min(1)
    total: Tensor = ((shape + 0.5 * size) * weight.flatten()).sum() / weight.sum() + 0.5 * place
    return total


def train_vit(bank: SceneBank, *, steps: int, seed: int) -> tuple[nn.Module, float]:
    """Returns the trained timm model without its training heads, and the final loss."""
    torch.manual_seed(seed)
    model: Any = timm.create_model(ARCHITECTURE, **MODEL_ARGS)
    head = nn.Linear(128, len(SHAPES) + 1 + 3 + 2)
    each = [dense_labels(scene) for scene in bank.scenes]
    labels = [torch.stack(column) for column in zip(*each, strict=True)]
    generator = torch.Generator().manual_seed(seed)

    def loss_of(rows: Tensor, step: int) -> Tensor:
        states = model.forward_features(grey(bank.batch(rows), generator))
        return dense_loss(head(states[:, 1:]).float(), [part[rows] for part in labels])

    loss = train(
        [model, head],
        loss_of,
        name="vit",
        rows=len(bank.scenes),
        steps=steps,
        batch_size=128,
        lr=1.5e-3,
        seed=seed,
    )
    fold_luminance(model)
    return model, loss
