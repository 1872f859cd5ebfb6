"""The contract of a task, as one call that a third party puts into their own tests: `check_task(task, folder)`.

Handed a task and a folder with its files (a few records a split suffice); raises one `TaskError` that says which clause
is broken. Built-in and generic tasks pass the same suite.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.base import Answer, Example, Objective, Split, Stream, Task
from tasks.errors import DatasetError, TaskError
from tasks.paths import relative_image
from tasks.predictions import matched, read_similarity, write_similarity
from tasks.retrieval_answers import Gallery, retrieval_answers

WIDTH = 8


@dataclass(frozen=True)
class Pooled:
    """Stand-in for states of a fusion model: a fixed random code of each text and image."""

    pooled: Float[Tensor, "b k w"]


def check_task(task: Task, folder: Path) -> None:
    """Runs every clause of the contract.

    Args:
        task: the task.
        folder: holds its splits train, select and test.

    Raises:
        TaskError: a clause is broken; the message names the task and the clause.
        DatasetError: the files cannot be read.
    """
    splits = {part: _check_reading(task, folder, part) for part in ("train", "select", "test")}
    objective = _check_objective(task, splits["train"])
    _check_answers(task, splits["test"], objective)
    found = task.baselines(splits["train"], splits["test"])
    values = [found.chance, found.majority, *([] if found.prior is None else [found.prior])]
    _require(task, all(0 <= value <= 1 for value in values), f"baselines are fractions in [0, 1], not {values}")


def _require(task: Task, holds: bool, clause: str) -> None:
    if not holds:
        raise TaskError(f"task {task.name!r} breaks its contract: {clause}")


def _check_reading(task: Task, folder: Path, part: str) -> Split:
    _require(task, part in task.logical, f"`logical` says what its {part!r} is")
    split = task.read(folder, part)
    _require(task, task.read(folder, part).examples == split.examples, f"reading {part!r} twice gives the same")
    first = next(iter(task.records(folder, part)))
    limited = task.read(folder, part, limit=1).examples
    _require(task, len(limited) == len(first), f"limit=1 gives the first record of {part!r} alone")
    for example in split.examples:
        try:
            relative_image(example.image, file=folder, record=example.id)
        except DatasetError as error:
            raise TaskError(f"task {task.name!r} breaks its contract: {error.problem}") from error
    return split


def encoded(examples: Sequence[Example], streams: Sequence[Stream]) -> dict[Stream, Pooled]:
    """States that depend on each example's text and image alone."""

    def code(key: str) -> Tensor:
        return torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(sum(map(ord, key)) + len(key)))

    texts = torch.stack([code(example.text) for example in examples])
    images = torch.stack([code(example.image) for example in examples])
    made: dict[Stream, Pooled] = {
        "text": Pooled(texts),
        "image": Pooled(images),
        "joint": Pooled(texts + images),
    }
    return {stream: made[stream] for stream in streams}


def _check_objective(task: Task, train: Split) -> Objective:
    torch.manual_seed(0)
    objective = task.objective(train, WIDTH)
    examples = train.examples[:16]
    loss = objective.loss(encoded(examples, objective.streams), examples)
    _require(task, loss.shape == () and bool(loss.isfinite()), "the loss is one finite number")
    loss.backward()  # type: ignore[no-untyped-call]
    reached = [weight.grad is not None for weight in objective.parameters()]
    _require(task, any(reached), "the loss has a gradient")
    try:
        json.dumps(objective.describe())
    except TypeError as error:
        raise TaskError(f"task {task.name!r} breaks its contract: `describe` is of JSON values: {error}") from error
    again = task.objective(train, WIDTH)
    again.load_state_dict(objective.state_dict())
    same = again.loss(encoded(examples, objective.streams), examples)
    _require(task, same.item() == loss.item(), "an objective of the same split takes the state dict of another")
    return objective


def _check_answers(task: Task, test: Split, objective: Objective) -> None:
    objective.eval()
    if task.scoring == "gallery":
        _check_gallery(task, test)
        return
    examples = test.examples
    whole = objective.answers(encoded(examples, objective.streams), examples)
    _require(task, [a.id for a in whole] == [e.id for e in examples], "there is one answer an example, in order")
    single = [a for e in examples for a in objective.answers(encoded([e], objective.streams), [e])]
    same = [a.prediction for a in single] == [a.prediction for a in whole]
    _require(task, same, "answers do not depend on the batch")
    if any(example.target is None for example in examples):
        return
    bounded = all(answer.score is None or 0 <= answer.score <= 1 for answer in whole)
    _require(task, bounded, "scores are in [0, 1] or None")
    value = task.value(whole)
    _require(task, 0 <= value <= 1, f"the metric is a fraction in [0, 1], not {value}")
    _require(task, isclose(task.value(whole[::-1]), value, abs_tol=1e-9), "the metric does not depend on the order")
    scores = [answer.score for answer in whole if answer.score is not None]
    mean = sum(scores) / max(1, len(scores))
    clause = f"the metric, {value:.4g}, is the mean of the answers' scores, {mean:.4g}, or no answer has one (`credit`)"
    _require(task, not scores or isclose(value, mean, abs_tol=1e-9), clause)
    _require(task, all(isfinite(v) for v in task.secondary(whole).values()), "secondary metrics are finite")
    _check_predictions(task, examples, whole, value)


def _check_predictions(task: Task, examples: Sequence[Example], answers: list[Answer], value: float) -> None:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "predictions"
        task.export(answers, path)
        judged = [task.judge(example, said) for example, said in matched(examples, task.predictions(path), path=path)]
    same = [(a.id, a.prediction, a.score, a.target) for a in judged]
    _require(
        task,
        same == [(a.id, a.prediction, a.score, a.target) for a in answers] and isclose(task.value(judged), value),
        "exported predictions are read back and judged as the answers were",
    )


def _check_gallery(task: Task, test: Split) -> None:
    """Similarities that are written and read back in another order are scored alike."""
    gallery = Gallery.of(test.examples)
    similarity = torch.randn(
        len(gallery.images), len(gallery.captions), generator=torch.Generator().manual_seed(0)
    )
    answers = retrieval_answers(similarity, test.examples)
    value = task.value(answers)
    _require(task, 0 <= value <= 1, f"the metric is a fraction in [0, 1], not {value}")
    _require(task, isclose(task.value(answers[::-1]), value, abs_tol=1e-9), "the metric does not depend on the order")
    captions = [caption.id for caption in gallery.captions]
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "similarity.npz"
        write_similarity(path, similarity.numpy()[::-1, ::-1], gallery.images[::-1], captions[::-1])
        i2t, _ = read_similarity(path, gallery.images, captions)
    again = retrieval_answers(torch.from_numpy(i2t.copy()), test.examples)
    _require(task, again == answers, "similarities are read back in the split's order")
