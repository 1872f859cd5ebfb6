"""AdamW with a group of parameters per module and decay.

Handed a `TaskModel`; hands on an optimizer over what needs a gradient, so that frozen parts are left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from experiments.training.settings import TrainConfig

FUSION_MODULES = {
    "text": "text",
    "operator": "trunk",
    "adapters": "adapters",
    "positions": "adapters",
    "match_head": "heads",
}


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW with METER's betas. Each group keeps its peak rate under "peak"."""
    return torch.optim.AdamW(parameter_groups(model, settings), lr=settings.lr, betas=(0.9, 0.98), eps=1e-8)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's learning rate to a share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def module_of(parameter: str) -> str:
    """Which of `MODULES` a parameter of a `TaskModel` belongs to, by its name."""
    part, _, rest = parameter.partition(".")
    if part == "objectives":
        return "heads"
    return FUSION_MODULES[rest.partition(".")[0]]


def parameter_groups(model: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """A group per module and decay: weight decay for matrices, none for biases, norms and single vectors."""
    found: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault((module_of(name), parameter.ndim > 1), []).append(parameter)
    groups = []
    for (module, decayed), parameters in found.items():
        peak = settings.lr * settings.lr_scale.get(module, 1.0)
        decay = settings.weight_decay if decayed else 0.0
        groups.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay})
    return groups
