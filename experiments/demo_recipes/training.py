"""The loop that the four recipes share: shuffled batches, AdamW with warm-up and cosine decay, bf16 autocast."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, int], Tensor]


def train(
    modules: Iterable[nn.Module],
    loss_of: Loss,
    *,
    name: str,
    rows: int,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    weight_decay: float = 0.05,
    after_step: Callable[[int], None] | None = None,
) -> float:
    """Minimise `loss_of(rows of a batch, step)`; returns the mean loss of the last hundred steps."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, steps))
    generator = torch.Generator().manual_seed(seed)
    started, recent = time.perf_counter(), []
    for step in range(steps):
        batch = torch.randint(rows, (batch_size,), generator=generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(batch, step)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 3.0)
        optimizer.step()
        schedule.step()
        if after_step is not None:
            after_step(step)
        recent.append(loss.item())
        if (step + 1) % 200 == 0:
            rate = (step + 1) / (time.perf_counter() - started)
            mean = sum(recent[-100:]) / len(recent[-100:])
            left = (steps - step - 1) / rate
            print(
                f"{name} step {step + 1}/{steps} loss {mean:.4f} {rate * batch_size:.0f} images/s, {left:.0f} s left",
                flush=True,
            )
    return sum(recent[-100:]) / len(recent[-100:])


def _learning_rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
