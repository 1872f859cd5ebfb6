"""How fast a run's models are on this machine: a few steps and answers of each, on random features of the real shapes.

Handed a workshop whose features need not exist; hands on seconds an example, by task. Nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, final

import torch

from encoders.base import Encoder
from encoders.store import FeatureStore, StoredFeatures
from experiments.bank import FeatureBank
from experiments.config import RunConfig
from experiments.data import PARTS, TaskData
from experiments.evaluate import Evaluator
from experiments.jobs import groups_of
from experiments.model import TaskModel
from experiments.processes import ALONE
from experiments.training.batches import Batches
from experiments.training.optimizer import make_optimizer
from experiments.training.sampler import Draw
from experiments.training.settings import Precision, TrainConfig
from experiments.training.train import make_dropout
from experiments.workshop import build_model
from fusion.types import Coalition

FEW = 4
"""Examples of the first trial; where a whole batch would take longer than `LONG` seconds, of the only one."""
LONG = 5.0
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@final
class RandomStore(FeatureStore):
    """A store that has any image, at random; nothing of it is on disk."""

    def read(self, digests: Sequence[str], *, precision: Literal["fp32", "stored"] = "fp32") -> StoredFeatures:
        meta, count = self.meta, len(digests)
        boxes = torch.tensor(meta.boxes or [[0.5, 0.5, 1.0, 1.0]] * (meta.grid[0] * meta.grid[1]))
        tokens = torch.randn(count, len(boxes), meta.width)
        return StoredFeatures(tokens, boxes.expand(count, -1, -1), torch.ones(tokens.shape[:2], dtype=torch.bool))


def random_bank(data: Mapping[str, TaskData], encoders: Mapping[str, Encoder]) -> FeatureBank:
    """Random features of every image of the run."""
    stores = {alias: (RandomStore(Path("."), encoder),) for alias, encoder in encoders.items()}
    images = {(name, image): image for name, item in data.items() for part in PARTS for image in item.paths(part)}
    return FeatureBank(stores, images)


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds an example, by its visual tokens."""

    fixed: float
    per_token: float

    def at(self, tokens: float) -> float:
        return self.fixed + self.per_token * tokens

    @classmethod
    def through(cls, *points: tuple[int, float]) -> Line:
        """Through the first and the last of (tokens, seconds); level where those are one, or noise would turn it."""
        (few, short), (many, long) = points[0], points[-1]
        slope = max(0.0, (long - short) / (many - few)) if many > few else 0.0
        return cls(max(0.0, short - slope * few) if slope else min(short, long), slope)


@dataclass(frozen=True, slots=True)
class TaskPace:
    """Seconds an example of one task takes to train on and to answer, and a pair to match."""

    training: Line
    answering: Line
    matching: float


def paces(
    config: RunConfig, data: Mapping[str, TaskData], bank: FeatureBank, device: torch.device
) -> dict[str, TaskPace]:
    """Measured with a fresh model for each group of tasks that share one."""
    found: dict[str, TaskPace] = {}
    for tasks in groups_of(config).values():
        model = build_model(config, {task: data[task] for task in tasks}, bank.widths, seed=0).to(device)
        trial = Trial(model, config, bank, config.train_of(*tasks))
        found |= {task: trial.pace(data[task]) for task in tasks}
    return found


class Trial:
    """One model's trial; its weights are spoilt."""

    def __init__(self, model: TaskModel, config: RunConfig, bank: FeatureBank, settings: TrainConfig) -> None:
        self.model, self.bank, self.evaluate = model, bank, config.evaluate
        self.settings = replace(settings, ve_dropout=0.0, empty=0.0, accumulate=1)
        self.part = max(FEW, settings.batch_size // settings.accumulate)
        model.dropout = None  # what would fill the places of absent encoders: here the tokens decide
        model.fusion.freeze(settings.freeze)
        self.optimizer = make_optimizer(model, settings)

    def pace(self, item: TaskData) -> TaskPace:
        """With one encoder and with all."""
        one, every = self.bank.aliases[:1], self.bank.aliases
        training, answering = [], []
        for coalition in dict.fromkeys((one, every)):
            tokens = sum(self._tokens(item, coalition).values())
            training.append((tokens, seconds_each(partial(self._step, item, coalition), most=self.part)))
            most = min(self.evaluate.batch_size, len(item.splits["test"].examples))
            answering.append((tokens, seconds_each(partial(self._answers, item, coalition), most=most)))
        matching = seconds_each(partial(self._match, item), most=self.evaluate.batch_size)
        return TaskPace(Line.through(*training), Line.through(*answering), matching)

    def _tokens(self, item: TaskData, coalition: Coalition) -> dict[str, int]:
        image = item.splits["test"].images()[:1]
        found = self.bank.features(item.task.name, image, coalition)
        return {alias: features.tokens.shape[1] for alias, features in found.items()}

    def _step(self, item: TaskData, coalition: Coalition, count: int) -> Callable[[], object]:
        """Forward, backward and update on so many training examples."""
        task = item.task.name
        settings = replace(self.settings, batch_size=count, groups=min(self.settings.groups, count))
        dropout = make_dropout({alias: self.bank.widths[alias] for alias in coalition}, settings)
        objectives = {task: self.model.objective(task)}
        reader = Batches(self.bank, objectives, settings, dropout, "masked", 0, 1, ALONE)
        examples = item.splits["train"].examples
        draw = Draw(1, task, [examples[k % len(examples)] for k in range(count)])
        generator = torch.Generator().manual_seed(0)

        def step() -> None:
            self.model.train()
            groups = [group.to(self.model.fusion.device) for group in reader.read(draw).parts[0]]
            with self._autocast(settings.precision):
                loss = self.model(groups, generator)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return step

    def _answers(self, item: TaskData, coalition: Coalition, count: int) -> Callable[[], object]:
        """Answers to so many test examples."""
        size, precision = self.evaluate.batch_size, self.evaluate.precision
        one = Evaluator(self.model, self.bank, item, "test", batch_size=size, precision=precision, limit=count)
        return partial(one.answers, coalition)

    def _match(self, item: TaskData, count: int) -> Callable[[], object]:
        """Logits of so many pairs, with all encoders."""
        examples, coalition = item.splits["test"].examples[:1] * count, self.bank.aliases
        features = self.bank.of_examples(item.task.name, examples, coalition, self.model.fusion.device)
        texts = [example.text for example in examples]

        @torch.no_grad()
        def match() -> None:
            self.model.eval()
            with self._autocast(self.evaluate.precision):
                self.model.fusion.match(texts, features, coalition)

        return match

    def _autocast(self, precision: Precision | Literal["fp16"]) -> torch.autocast:
        chosen = TYPES.get(precision, torch.bfloat16)
        return torch.autocast(self.model.fusion.device.type, chosen, enabled=precision != "no")


def seconds_each(make: Callable[[int], Callable[[], object]], *, most: int) -> float:
    """Seconds an example, on `most` of them if that does not take long, else on a few.

    Args:
        make: what is to be timed on so many examples.
    """
    few = min(FEW, most)
    each = _seconds(make(few)) / few
    return each if few == most or each * most > LONG else _seconds(make(most)) / most


def _seconds(work: Callable[[], object]) -> float:
    """Of the second call: the first one allocates."""
    work()
    started = _now()
    work()
    return _now() - started


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
