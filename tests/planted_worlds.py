"""Tables of answers with planted truth, held in memory: an ideal observer of bits, and worlds of known accuracy.

`observed` plays every coalition of encoders that each see some bits of an example: the observer answers with the
likelier of two targets and its posterior probability, and guesses where both are equally likely. `drawn` draws right
and wrong answers with given probabilities, seed effects and image effects included, so that the expected value of
every quantity is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from conftest import SOAK

from analysis.answers import Cell, CellName, Rows, TaskAnswers
from analysis.coalition_values import all_coalitions, coalition_name
from analysis.run_files import RunFiles
from analysis.task_results import task_results
from analysis.verdict import finish_verdicts

WORDS = ("no", "yes")
WORLDS = 2000 if SOAK else 50
"""How many worlds a calibration draws."""


def table(num_rows: int, *, targets: np.ndarray | None = None, per_image: int = 1, **slices: np.ndarray) -> TaskAnswers:
    """An empty table; targets are 0 or 1."""
    chosen = np.ones(num_rows, dtype=int) if targets is None else targets
    clusters = np.arange(num_rows) // per_image
    rows = Rows(
        ids=np.array([f"{row:06d}" for row in range(num_rows)], dtype=object),
        directions=np.full(num_rows, "", dtype=object),
        targets=np.array([WORDS[value] for value in chosen], dtype=object),
        images=np.array([f"{image}.jpg" for image in clusters], dtype=object),
        clusters=clusters,
        slices={name: np.asarray(values, dtype=object) for name, values in slices.items()},
    )
    answers = TaskAnswers("gqa", "test", rows)
    for word in WORDS:
        answers.number(word)
    return answers


def add(
    answers: TaskAnswers,
    seed: int,
    coalition: Sequence[str],
    right: np.ndarray,
    *,
    mode: str = "masked",
    removal: str = "drop",
    logprob: np.ndarray | None = None,
) -> None:
    """A cell of right and wrong answers."""
    n = len(right)
    target = np.array([WORDS.index(word) for word in answers.rows.targets])
    cell = Cell(
        score=right.astype(float),
        probability=np.full(n, np.nan),
        logprob=np.full(n, np.nan) if logprob is None else logprob,
        rank=np.full(n, -1),
        correct=right.astype(bool),
        prediction=np.where(right, target, 1 - target),
    )
    answers.cells.setdefault(seed, {})[CellName(mode, removal, coalition_name(coalition))] = cell


def observed(
    target: Callable[..., int],
    sees: Mapping[str, str],
    *,
    bits: str,
    text: str = "",
    factor: Callable[..., str] | None = None,
    num_rows: int = 600,
    seed: int = 0,
    error: float = 0.02,
) -> TaskAnswers:
    """Answers of an ideal observer of bits.

    Args:
        target: of the bits' values, in the order of `bits`.
        sees: per encoder the bits that it sees.
        text: the bits that the text gives away.
        factor: of the bits' values, what the example asks about: the slice column `factor`.
        error: share of answers that are wrong whatever is seen.
    """
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, size=(num_rows, len(bits)))
    truth = np.array([target(*row) for row in values])
    slices = {} if factor is None else {"factor": np.array([factor(*row) for row in values], dtype=object)}
    answers = table(num_rows, targets=truth, **slices)
    guess, slip = rng.random(num_rows) < 0.5, rng.random(num_rows) < error
    for coalition in all_coalitions(tuple(sees)):
        seen = [k for k, bit in enumerate(bits) if bit in text or any(bit in sees[alias] for alias in coalition)]
        posterior = {
            shown: np.mean([target(*all_bits) for all_bits in product((0, 1), repeat=len(bits))
                            if tuple(all_bits[k] for k in seen) == shown])
            for shown in product((0, 1), repeat=len(seen))
        }
        yes = np.array([posterior[tuple(row[seen])] for row in values])
        said = np.where(yes == 0.5, guess, yes > 0.5) ^ slip
        of_target = np.where(truth == 1, yes, 1 - yes) * (1 - 2 * error) + error
        add(answers, 0, coalition, said == truth, logprob=np.log(of_target))
    return answers


def drawn(
    probability: Mapping[CellName, float],
    *,
    num_rows: int,
    num_seeds: int,
    rng: np.random.Generator,
    per_image: int = 1,
    seed_spread: float = 0.01,
    image_spread: float = 0.1,
    shared_luck: float = 0.5,
    own_luck: float = 0.0,
) -> TaskAnswers:
    """Right and wrong answers with known expectations: probability + effect of the seed + effect of the image.

    Effects are uniform with the given standard deviation; `shared_luck` is the share of examples whose difficulty is
    the same under all seeds. Within a seed all cells share the luck of an example, so that differences are paired, but
    for a share of `own_luck`, on which they disagree at random.
    """
    answers = table(num_rows, per_image=per_image)
    of_image = rng.uniform(-1, 1, size=answers.rows.num_clusters) * image_spread * 3**0.5
    common = rng.random(num_rows)
    for seed in range(num_seeds):
        luck = np.where(rng.random(num_rows) < shared_luck, common, rng.random(num_rows))
        for name, value in probability.items():
            effect = rng.uniform(-1, 1) * seed_spread * 3**0.5
            mine = np.where(rng.random(num_rows) < own_luck, rng.random(num_rows), luck) if own_luck else luck
            right = mine < value + effect + of_image[answers.rows.clusters]
            coalition = tuple(name.coalition.split("+")) if name.coalition else ()
            add(answers, seed, coalition, right, mode=name.mode, removal=name.removal)
    return answers


def finished(
    answers: TaskAnswers,
    encoders: Sequence[str],
    *,
    selection: TaskAnswers | None = None,
    num_resamples: int = 500,
    chance: float = 0.5,
    among: int = 1,
) -> dict[str, Any]:
    """A task's entry in results.json, corrections included.

    Args:
        among: tasks of the run; in the others no encoder adds anything.
    """
    specs = {alias: f"demo:{alias}" for alias in encoders}
    files = RunFiles(Path("memory"), {"encoders": specs}, {}, {"gqa": {"chance": chance}}, [])
    settings: dict[str, Any] = {"num_resamples": num_resamples, "seed": 0, "comparisons": among * len(encoders)}
    found = task_results(answers, selection, files, None, **settings)
    others = {f"other {k}": deepcopy(found) for k in range(1, among)}
    for other in others.values():
        for entry in other["verdict"]:
            entry["p"] = 1.0
    finish_verdicts({"gqa": found, **others}, num_resamples=num_resamples)
    return found


def name(coalition: str = "", *, mode: str = "masked", removal: str = "drop") -> CellName:
    """A cell's name; the coalition as files have it."""
    return CellName(mode, removal, coalition)
