"""Published fine-tuning settings, as training settings of single tasks."""

from __future__ import annotations

from typing import Any

from tasks.recipes import RECIPES


def recipe_values(task: str, *, part: int) -> dict[str, Any]:
    """The first recipe of a task: rates, decay, batch and length; its batch is worked on in parts of at most `part`."""
    recipe = RECIPES[task][0]
    number, _, unit = recipe.length.partition(" ")
    return {
        "lr": recipe.lr,
        "lr_scale": {"heads": recipe.head_lr, "adapters": recipe.fusion_lr},
        "weight_decay": recipe.weight_decay,
        "batch_size": recipe.batch_size,
        "accumulate": -(-recipe.batch_size // part),
        **({"epochs": float(number)} if unit == "epochs" else {"steps": int(number), "epochs": None}),
    }
