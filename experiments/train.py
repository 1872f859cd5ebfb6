"""The training loop: one model, its tasks' batches with VE-dropout, AdamW, on accelerate.

Handed a `TaskModel`, data and features; hands on the training record. What a step sees is a pure function of the
seed and the step, whatever the number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from experiments.config import RunConfig, TrainConfig
from experiments.data import FeatureBank, TaskData
from experiments.model import Group, TaskModel
from fusion.types import Coalition
from fusion.ve_dropout import coalition_for, group_batch
from tasks.base import Example

Mode = Literal["masked", "blind"]
CHECKS = (0.25, 0.5, 0.8, 1.0)
CONVERGED_WITHIN = 0.01
FUSION_MODULES = {
    "text": "text",
    "operator": "trunk",
    "adapters": "adapters",
    "positions": "adapters",
    "match_head": "heads",
}


class Sampler:
    """Which task and which examples a step trains on: shuffled passes over each task, tasks drawn by weight."""

    def __init__(self, data: Mapping[str, Sequence[Example]], config: TrainConfig, *, seed: int) -> None:
        self._data = data
        self._tasks = list(data)
        self._weights = torch.tensor([config.weights.get(task, 1.0) for task in data])
        self._size = config.batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._orders: dict[str, list[int]] = {task: [] for task in data}

    def draw(self) -> tuple[str, list[Example]]:
        """The next step's task and examples."""
        task = self._tasks[int(torch.multinomial(self._weights, 1, generator=self._generator))]
        order = self._orders[task]
        while len(order) < self._size:
            order.extend(torch.randperm(len(self._data[task]), generator=self._generator).tolist())
        taken, self._orders[task] = order[: self._size], order[self._size :]
        return task, [self._data[task][k] for k in taken]


class _Draw(NamedTuple):
    """What decides the coalitions of one step's groups."""

    mode: Mode
    seed: int
    step: int


def train_model(
    model: TaskModel,
    data: Mapping[str, TaskData],
    bank: FeatureBank,
    config: RunConfig,
    *,
    name: str,
    mode: Mode,
    seed: int,
    accelerator: Accelerator,
    validate: Callable[[TaskModel], dict[str, float]],
) -> dict[str, Any]:
    """Trains in place; returns the record (losses, validation scores, steps, whether it had converged)."""
    settings = config.train
    steps = settings.steps if mode == "masked" else settings.blind_steps
    wrapped, optimizer, schedule = _prepare(model, settings, steps, accelerator)
    sampler = Sampler({task: item.splits["train"].examples for task, item in data.items()}, settings, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    losses: list[tuple[int, float]] = []
    select: list[tuple[int, dict[str, float]]] = []
    running, started = 0.0, time.perf_counter()
    checks = {max(1, round(share * steps)) for share in CHECKS}
    show = not accelerator.is_main_process
    with tqdm(total=steps * settings.batch_size, unit="ex", desc=f"training {name}", disable=show) as bar:
        for step in range(1, steps + 1):
            model.train()
            task, examples = sampler.draw()
            draw = _Draw(mode, seed, step)
            groups = _groups(model, task, examples, bank, settings, draw=draw, accelerator=accelerator)
            with accelerator.autocast():
                loss = wrapped(groups, generator)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            running += loss.item()
            bar.update(len(examples))
            if step % 50 == 0:
                losses.append((step, round(running / 50, 5)))
                bar.set_postfix(loss=f"{running / 50:.3f}")
                running = 0.0
            if step in checks:
                select.append((step, validate(model)))
    return {
        "model": name,
        "mode": mode,
        "seed": seed,
        "steps": steps,
        "examples_seen": steps * settings.batch_size,
        "losses": losses,
        "select": select,
        "converged": has_converged(select),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _prepare(model: TaskModel, settings: TrainConfig, steps: int, accelerator: Accelerator) -> tuple[Any, Any, Any]:
    """Model, AdamW and schedule (METER's betas), as accelerate wraps them."""
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.lr, betas=(0.9, 0.98), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, settings.warmup))
    return accelerator.prepare(model, optimizer, schedule)  # type: ignore[no-any-return]


def _groups(
    model: TaskModel,
    task: str,
    examples: Sequence[Example],
    bank: FeatureBank,
    settings: TrainConfig,
    *,
    draw: _Draw,
    accelerator: Accelerator,
) -> list[Group]:
    """Splits a batch into groups that share a coalition; a contrastive batch is one group and never empty."""
    contrastive = model.objective(task).empty == "skip"
    slices = group_batch(len(examples), groups=1 if contrastive else settings.groups)
    groups = []
    for number, part in enumerate(slices):
        coalition: Coalition = ()
        if draw.mode == "masked":
            empty = 0.0 if contrastive else settings.empty
            coalition = coalition_for(draw.seed, draw.step, number, bank.aliases, settings.ve_dropout, empty)
        rows = examples[part][accelerator.process_index :: accelerator.num_processes]
        if rows:
            features = bank.of_examples(task, rows, coalition, accelerator.device)
            groups.append(Group(task, rows, features, coalition, share=len(examples[part]) / len(examples)))
    return groups


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
    return [
        {
            "params": parameters,
            "lr": settings.lr * settings.lr_scale.get(module, 1.0),
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for (module, decayed), parameters in found.items()
    ]


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then linear decay to 0; a factor of the peak."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return max(0.0, (steps - step) / max(1, steps - warm))


def has_converged(select: Sequence[tuple[int, Mapping[str, float]]]) -> bool:
    """Whether no task's validation score moved by more than a point over the last fifth of training."""
    if len(select) < 2:
        return False
    before, after = select[-2][1], select[-1][1]
    return all(abs(after[task] - before[task]) <= CONVERGED_WITHIN for task in after)
