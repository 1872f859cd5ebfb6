"""What the presence of one encoder turns right, and what wrong: shares, and the examples themselves.

Handed the cells of all encoders and of all but one; hands on rescue and harm with intervals, exact McNemar tests seed
by seed, and the examples that flip under most seeds, to be shown with their images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from analysis.answers import Cell, TaskAnswers
from analysis.bootstrap import Resampler
from analysis.leaves import SHARE, leaf, not_run
from analysis.metric_values import correctness
from analysis.overlap import drawn_shares
from analysis.verdict import mcnemar_exact

SHOWN = 6
"""Examples named of each kind."""


def flips(
    answers: TaskAnswers,
    metric: str,
    resampler: Resampler,
    *,
    without: Mapping[str, Sequence[Cell]],
    whole: Sequence[Cell],
) -> dict[str, dict[str, Any]]:
    """Per encoder, the share of examples that all encoders get right and all others wrong (`rescue`), and `harm`."""
    result: dict[str, dict[str, Any]] = {}
    n = len(answers.rows.ids)
    for alias, cells in without.items():
        draws = drawn_shares(answers, metric, resampler, first=whole, second=cells)
        result[alias] = {
            "rescue": leaf(draws, 1, n=n, bounds=SHARE),
            "harm": leaf(draws, 2, n=n, bounds=SHARE),
            "mcnemar": _mcnemar(answers, metric, whole, cells),
            "rescued": _examples(answers, metric, right=whole, wrong=cells, whole=whole, without=cells),
            "harmed": _examples(answers, metric, right=cells, wrong=whole, whole=whole, without=cells),
        }
    return result


def _mcnemar(
    answers: TaskAnswers, metric: str, whole: Sequence[Cell], without: Sequence[Cell]
) -> list[dict[str, Any]] | dict[str, Any]:
    """Exact tests, each conditional on its seed; only where every image has one example."""
    if answers.rows.num_clusters < len(answers.rows.ids):
        return not_run("examples share images, so they are not independent")
    tests = []
    for seed, first, second in zip(answers.seeds, whole, without, strict=True):
        right, rest = correctness(metric, first), correctness(metric, second)
        gained, lost = int((right & ~rest).sum()), int((~right & rest).sum())
        tests.append({"seed": seed, "gained": gained, "lost": lost, "p": round(mcnemar_exact(gained, lost), 9)})
    return tests


def _examples(
    answers: TaskAnswers,
    metric: str,
    *,
    right: Sequence[Cell],
    wrong: Sequence[Cell],
    whole: Sequence[Cell],
    without: Sequence[Cell],
) -> list[dict[str, Any]]:
    """Those that flip under most seeds, in the rows' order among equals; predictions are those of the first such
    seed."""
    flipped: Bool[np.ndarray, "s n"] = np.stack(
        [correctness(metric, a) & ~correctness(metric, b) for a, b in zip(right, wrong, strict=True)]
    )
    counts, rows, words = flipped.sum(axis=0), answers.rows, answers.vocabulary
    chosen = [int(row) for row in np.argsort(-counts, kind="stable")[:SHOWN] if counts[row] > 0]
    found = []
    for row in chosen:
        seed = int(np.argmax(flipped[:, row]))
        found.append(
            {
                "id": str(rows.ids[row]),
                "image": str(rows.images[row]),
                "direction": str(rows.directions[row]),
                "target": str(rows.targets[row]),
                "with": words[whole[seed].prediction[row]],
                "without": words[without[seed].prediction[row]],
                "seeds": int(counts[row]),
            }
        )
    return found
