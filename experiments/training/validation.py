"""The part of a task's select split on which its models are validated while they train.

Handed a task and the settings; hands on the task with that part as its select split, the same for all its models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from experiments.data import TaskData
from experiments.errors import ConfigError
from experiments.training.seeds import generator_of
from experiments.training.settings import TrainConfig
from tasks.base import Example, Split, Task
from tasks.errors import TaskError
from tasks.predictions import Prediction


def validation_part(item: TaskData, settings: TrainConfig) -> TaskData:
    """The task with `train.validate_examples` of its select split, or with all of it.

    Images are drawn at random, whatever the run's seed, with all their examples; the last one may bring some of its
    own only. A gallery stays whole: its size is part of what it scores.

    Raises:
        ConfigError: the metric is undefined on that part, as the area under a curve is where all labels are equal.
    """
    task, split, count = item.task, item.splits["select"], settings.validate_examples
    if task.scoring == "gallery":
        return item
    chosen = split.examples if count is None else _draw(task, split, count)
    problem = _undefined(task, chosen)
    if problem is not None:
        whole = f"the select split of {task.name} ({split.official}, {len(split.examples)} examples)"
        if len(chosen) < len(split.examples) and _undefined(task, split.examples) is None:
            raise ConfigError(
                f"train.validate_examples={count} draws a part of {whole} that has no {task.metric}:"
                f" {problem}; nearest that has: null, for all of it"
            )
        raise ConfigError(f"{whole} has no {task.metric}: {problem}; models cannot be validated on it")
    return replace(item, splits={**item.splits, "select": replace(split, examples=list(chosen))})


def _draw(task: Task, split: Split, count: int) -> Sequence[Example]:
    """So many examples, in the split's order."""
    images = split.images()
    order = torch.randperm(len(images), generator=generator_of("validation", task.name)).tolist()
    rank = dict(zip(images, order, strict=True))
    chosen = sorted(range(len(split.examples)), key=lambda place: rank[split.examples[place].image])[:count]
    return [split.examples[place] for place in sorted(chosen)]


def _undefined(task: Task, examples: Sequence[Example]) -> str | None:
    """Why the metric cannot be computed, even of the right answers."""
    try:
        task.value([task.judge(example, Prediction(str(example.target), 0.5)) for example in examples])
    except TaskError as error:
        return str(error)
    return None
