"""What an encoder costs (parameters, GFLOPs, tokens, milliseconds an image) and how alike two of them are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from analysis.leaves import not_run
from analysis.streamed import StreamedSimilarity
from encoders.base import Encoder, FileEncoder
from experiments.bank import FeatureBank
from experiments.data import TaskData
from fusion.types import Features

IMAGES = 5000
PORTION = 64
"""Images whose tokens are in memory together."""
ROUNDS = 5


@torch.no_grad()
def encoder_cost(encoder: Encoder) -> dict[str, Any]:
    """Measured on random pixels: GFLOPs of one image (a multiply-add is two), median milliseconds in batches of 16."""
    if isinstance(encoder, FileEncoder):
        unknown = not_run("features were computed elsewhere")
        return {"params": unknown, "gflops": unknown, "tokens": encoder.num_tokens, "ms_per_image": unknown}
    height, width = encoder.preprocess.output
    pixels = torch.randn(16, 3, height, width)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused ones are not all counted
        device = encoder.tokens(pixels[:1]).device
    pixels = pixels.to(device)
    encoder.tokens(pixels)  # the first pass of a shape plans kernels
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        encoder.tokens(pixels).cpu()  # which waits for a GPU
        times.append((time.perf_counter() - started) / len(pixels) * 1000)
    return {
        "params": encoder.num_params,
        "gflops": counter.get_total_flops() / 1e9,
        "tokens": encoder.num_tokens,
        "ms_per_image": sorted(times)[ROUNDS // 2],
    }


def similarity(data: Mapping[str, TaskData], bank: FeatureBank) -> dict[str, Any]:
    """How alike encoders are, from mean-pooled tokens of at most `IMAGES` test images, as many from each task.

    Their order is random, so that every batch that is compared holds images of all tasks; an image counts once.
    """
    rng = np.random.default_rng(0)
    chosen: dict[str, tuple[str, str]] = {}
    for name, item in data.items():
        images = item.splits["test"].images()
        for place in rng.permutation(len(images))[: max(1, IMAGES // len(data))]:
            chosen.setdefault(bank.digest(name, images[place]), (name, images[place]))
    order = [list(chosen.values())[place] for place in rng.permutation(len(chosen))]
    found = StreamedSimilarity()
    for start in range(0, len(order), PORTION):
        by_task: dict[str, list[str]] = {}
        for name, image in order[start : start + PORTION]:
            by_task.setdefault(name, []).append(image)
        for name, images in by_task.items():
            features = bank.features(name, images, bank.aliases)
            found.add({alias: _mean_token(one) for alias, one in features.items()})
    return found.table()


def _mean_token(features: Features) -> Float[np.ndarray, "b d"]:
    weights = features.valid.float()[..., None]
    mean: Float[np.ndarray, "b d"] = ((features.tokens * weights).sum(1) / weights.sum(1)).numpy()
    return mean
