"""`bench analysis`: exact Shapley values of a live model against captum's, and the resampling of a large table.

The model is the toolkit's own, of the demo's size, with four encoders whose tokens really leave; captum asks for the
same coalitions through the same function, and evaluates each order anew. The table is 12,000 examples of as many
images, 16 coalitions and 3 seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from analysis.bootstrap import Resampler
from analysis.coalition_values import CoalitionSpace
from analysis.live import live_shapley
from analysis.metric_values import MeanStatistic
from experiments.bench import Figure
from fusion.config import FusionConfig
from fusion.model import FusionModel
from fusion.types import Coalition, Features

TOKENS = {"vit": 25, "clip": 17, "dino": 36, "convnext": 16}
WIDTH = 96
EXAMPLES, SEEDS, RESAMPLES = 12_000, 3, 10_000
WANTED_RATIO, WANTED_SECONDS = 5.0, 20.0

T = TypeVar("T")


def run(folder: Path, *, images: int | None, rounds: int) -> list[Figure]:
    """The figures; `images` is the batch that is attributed."""
    theirs, mine, error = shapley_seconds(images or 64, rounds=rounds)
    return [
        Figure("captum's ShapleyValues ÷ the table of coalitions, same model", theirs / mine, wanted=WANTED_RATIO),
        Figure("the same, largest difference between both", error, "abs"),
        Figure(
            f"{RESAMPLES:,} resamples of {EXAMPLES:,} examples × 16 coalitions × {SEEDS} seeds",
            resampling_seconds(num_examples=EXAMPLES, num_resamples=RESAMPLES),
            "s",
            wanted=WANTED_SECONDS,
        ),
    ]


def shapley_seconds(num_images: int, *, rounds: int) -> tuple[float, float, float]:
    """Median seconds of captum and of the table, and how far their values are apart; rounds take turns."""
    from captum.attr import ShapleyValues  # type: ignore[import-untyped]

    aliases = tuple(TOKENS)
    value = batch_value(num_images)

    def by_presence(presence: Tensor) -> Tensor:
        present = presence[0].tolist()
        return value(tuple(alias for alias, here in zip(aliases, present, strict=True) if here))

    presence = torch.ones(num_images, len(aliases))
    method = ShapleyValues(by_presence)
    theirs, mine, error = [], [], 0.0
    with torch.no_grad():
        for _ in range(rounds):
            expected, seconds = timed(lambda: method.attribute(presence, baselines=0.0).double().numpy())
            theirs.append(seconds)
            found, seconds = timed(lambda: live_shapley(value, aliases))
            mine.append(seconds)
            error = max(error, float(np.abs(found - expected).max()))
    return median(theirs), median(mine), error


def batch_value(num_images: int) -> Callable[[Coalition], Tensor]:
    """Logits of fit of one batch under a coalition, by a model with random weights."""
    torch.manual_seed(0)
    model = FusionModel(FusionConfig(text="demo"), dict.fromkeys(TOKENS, WIDTH)).eval()
    texts = ["a red circle is left of the blue square"] * num_images
    features = {
        alias: Features(
            torch.randn(num_images, count, WIDTH),
            torch.rand(num_images, count, 4),
            torch.ones(num_images, count, dtype=torch.bool),
        )
        for alias, count in TOKENS.items()
    }
    return lambda coalition: model.match(texts, features, coalition)


def resampling_seconds(*, num_examples: int, num_resamples: int) -> float:
    """Seconds for drawing images and evaluating coalitions, Shapley values and interactions with their intervals."""
    rng = np.random.default_rng(0)
    space = CoalitionSpace(tuple(TOKENS))
    scores = [(rng.random((num_examples, 16)) < 0.7).astype(np.float64) for _ in range(SEEDS)]

    def work() -> int:
        resampler = Resampler("bench", num_clusters=num_examples, num_resamples=num_resamples, seed=0)
        draws = resampler.draw([MeanStatistic(columns, np.ones(num_examples)) for columns in scores])
        maps = np.concatenate([np.eye(16), space.shapley(), space.interaction(2)])
        found = draws.linear(maps)
        return sum(found.interval(column) is not None for column in range(len(maps)))

    count, seconds = timed(work)
    assert count == 16 + 4 + 6
    return seconds


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """A call's result and how long it took."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started
