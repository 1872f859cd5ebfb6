"""A DINO (transformers) self-distilled without labels: student crops must predict the teacher's view of the whole."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from experiments.demo_recipes.scene_bank import INPUT, SceneBank
from experiments.demo_recipes.training import train

OBJECTIVE = "self-distillation (DINO): two global and two local crops, momentum teacher, centring, no labels"
PROTOTYPES = 512
LOCAL = 32


class ProjectionHead(nn.Module):
    """Three layers, a normalised bottleneck, then prototypes (Caron et al. 2021)."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Linear(64, PROTOTYPES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(x), dim=-1), F.normalize(self.prototypes.weight, dim=-1))


def build_dino() -> Dinov2Model:
    """The untrained backbone: 4 layers of width 128, patches of 8 pixels."""
    config = Dinov2Config(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=4,
        image_size=INPUT,
        patch_size=8,
        layerscale_value=1.0,
        use_mask_token=False,
    )
    return Dinov2Model(config)


def crop(images: Tensor, *, low: float, high: float, size: int, generator: torch.Generator) -> Tensor:
    """A random square crop of each picture (area share between `low` and `high`), with mild colour jitter."""
    batch = len(images)
    side = (low + (high - low) * torch.rand(batch, generator=generator)).sqrt()
    centre = (2 * torch.rand(batch, 2, generator=generator) - 1) * (1 - side)[:, None]
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta, [batch, 3, size, size], align_corners=False)
    views = F.grid_sample(images, grid, align_corners=False, padding_mode="reflection")
    gain = 1 + 0.3 * (2 * torch.rand(batch, 3, 1, 1, generator=generator) - 1)
    return views * gain + 0.2 * (2 * torch.rand(batch, 1, 1, 1, generator=generator) - 1)


def train_dino(bank: SceneBank, *, steps: int, seed: int) -> tuple[nn.Module, float]:
    """Returns the teacher's backbone and the final loss."""
    torch.manual_seed(seed)
    student, head = build_dino(), ProjectionHead()
    teacher, teacher_head = copy.deepcopy(student), copy.deepcopy(head)
    for parameter in [*teacher.parameters(), *teacher_head.parameters()]:
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    centre = torch.zeros(PROTOTYPES)

    def loss_of(rows: Tensor, step: int) -> Tensor:
        images = bank.batch(rows)
        wide = [crop(images, low=0.4, high=1, size=INPUT, generator=generator) for _ in range(2)]
        near = [crop(images, low=0.1, high=0.4, size=LOCAL, generator=generator) for _ in range(2)]
        temperature = 0.04 + 0.03 * min(1.0, step / (0.3 * steps))
        with torch.no_grad():
            seen = [teacher_head(teacher(view).last_hidden_state[:, 0]).float() for view in wide]
            targets = [((view - centre) / temperature).softmax(-1) for view in seen]
            centre.mul_(0.9).add_(0.1 * torch.cat(seen).mean(0))
        outputs = [(head(student(view).last_hidden_state[:, 0]).float() / 0.1).log_softmax(-1) for view in wide + near]
        terms = [
            -(target * output).sum(-1).mean()
            for i, target in enumerate(targets)
            for j, output in enumerate(outputs)
            if i != j
        ]
        return torch.stack(terms).mean()

    def follow(step: int) -> None:
        momentum = 1 - (1 - 0.99) * (1 - step / steps)
        pairs = [(student, teacher), (head, teacher_head)]
        with torch.no_grad():
            for fast, slow in pairs:
                for p, q in zip(fast.parameters(), slow.parameters(), strict=True):
                    q.lerp_(p, 1 - momentum)

    loss = train(
        [student, head],
        loss_of,
        name="dino",
        rows=len(bank.scenes),
        steps=steps,
        batch_size=96,
        lr=1e-3,
        seed=seed,
        after_step=follow,
    )
    return teacher, loss
