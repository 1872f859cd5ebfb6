"""What an encoder costs (parameters, GFLOPs, tokens, milliseconds an image) and how alike two of them are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.leaves import not_run
from analysis.similarity import similarity_table
from encoders.base import Encoder, FileEncoder
from experiments.data import FeatureBank, TaskData

IMAGES = 600
ROUNDS = 5


@torch.no_grad()
def encoder_cost(encoder: Encoder) -> dict[str, Any]:
    """Measured on random pixels: GFLOPs of one image (a multiply-add is two), median milliseconds in batches of 16."""
    if isinstance(encoder, FileEncoder):
        unknown = not_run("features were computed elsewhere")
        return {"params": unknown, "gflops": unknown, "tokens": encoder.num_tokens, "ms_per_image": unknown}
    height, width = encoder.preprocess.output
    device = next(iter(encoder.boxes.unbind())).device
    pixels = torch.randn(16, 3, height, width, device=device)
    with FlopCounterMode(display=False) as counter:
        encoder.tokens(pixels[:1])
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        encoder.tokens(pixels)
        times.append((time.perf_counter() - started) / len(pixels) * 1000)
    return {
        "params": encoder.num_params,
        "gflops": counter.get_total_flops() / 1e9,
        "tokens": encoder.num_tokens,
        "ms_per_image": sorted(times)[ROUNDS // 2],
    }


def similarity(data: Mapping[str, TaskData], bank: FeatureBank) -> dict[str, Any]:
    """CKA between encoders over mean-pooled tokens of test images, taken evenly from the tasks."""
    share = max(1, IMAGES // len(data))
    pooled: dict[str, list[np.ndarray]] = {alias: [] for alias in bank.aliases}
    for name, item in data.items():
        features = bank.features(name, item.splits["test"].images()[:share], bank.aliases)
        for alias, found in features.items():
            weights = found.valid.float()[..., None]
            pooled[alias].append(((found.tokens * weights).sum(1) / weights.sum(1)).numpy())
    return similarity_table({alias: np.concatenate(parts) for alias, parts in pooled.items()})
