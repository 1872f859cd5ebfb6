"""What tasks with one label an example share: the objective with training frequencies as its start, and the
baselines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch

from tasks.base import Baselines, Example, Objective, Split
from tasks.errors import TaskError
from tasks.examples import Credit, exact
from tasks.objectives import ClassificationObjective


def label_objective(
    task: str,
    train: Split,
    width: int,
    *,
    labels: Sequence[str],
    score: Literal["share", "set"] = "share",
    credit: Credit = exact,
) -> Objective:
    """Cross-entropy over these labels; `credit` is what one scores, given the target.

    Raises:
        TaskError: no training example has one of the labels.
    """
    counts = Counter(example.target for example in train.examples)
    frequencies = torch.tensor([float(counts[label]) for label in labels])
    if not frequencies.sum():
        raise TaskError(f"split {train.name!r} of {task!r} has no labelled examples to train on")
    return ClassificationObjective(
        task=task, width=width, labels=labels, score=score, prior=frequencies / frequencies.sum(), credit=credit
    )


def label_baselines(
    train: Split, test: Split, *, chance: float, kind: str | None = None, credit: Credit = exact
) -> Baselines:
    """Mean credit on `test` of the most frequent training label, overall and by question type.

    Args:
        kind: the slice, or else the extra, that holds an example's question type; None where there are no
            types.
        credit: what a label scores, given the target.
    """
    if any(example.target is None for example in (*train.examples, *test.examples)):
        raise TaskError(f"baselines need labels, and {train.name!r} or {test.name!r} has examples without")
    overall = Counter(str(example.target) for example in train.examples)
    majority = overall.most_common(1)[0][0]
    by_majority = sum(credit(majority, str(example.target)) for example in test.examples) / len(test.examples)
    if kind is None:
        return Baselines(chance=chance, majority=by_majority)
    counts: dict[str, Counter[str]] = {}
    for example in train.examples:
        counts.setdefault(_kind(example, kind), Counter())[str(example.target)] += 1
    best = {name: labels.most_common(1)[0][0] for name, labels in counts.items()}
    of_kind = [(best.get(_kind(example, kind), majority), str(example.target)) for example in test.examples]
    prior = sum(credit(said, target) for said, target in of_kind) / len(of_kind)
    return Baselines(chance=chance, majority=by_majority, prior=prior)


def _kind(example: Example, kind: str) -> str:
    return str(example.slices.get(kind, example.extra.get(kind, "")))
