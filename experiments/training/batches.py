"""From the examples of a step to groups that share a coalition, with their features.

Handed draws of the sampler; hands on batches on the CPU. What a step sees is a pure function of the seed and the step,
whatever the number of processes: each takes its rows of every group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from experiments.bank import FeatureBank
from experiments.model import Group
from experiments.processes import Processes
from experiments.training.gather import Shared
from experiments.training.sampler import Draw
from experiments.training.seeds import generator_of
from experiments.training.settings import TrainConfig
from fusion.types import Coalition
from fusion.ve_dropout import VEDropout, group_batch
from tasks.base import Alone, Example, Objective, Whole

Mode = Literal["masked", "blind"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work of this process: parts whose losses add up to the step's, each a list of groups."""

    step: int
    task: str
    parts: Sequence[Sequence[Group]]


@dataclass(frozen=True, slots=True)
class Batches:
    """Reads the batch of a draw.

    Attributes:
        steps: of the whole training, over which VE-dropout warms up.
        pin: the features are for a GPU.
    """

    bank: FeatureBank
    objectives: Mapping[str, Objective]
    settings: TrainConfig
    dropout: VEDropout
    mode: Mode
    seed: int
    steps: int
    processes: Processes
    pin: bool = False

    def read(self, draw: Draw) -> Batch:
        """The batch, features included, on the CPU."""
        objective, settings = self.objectives[draw.task], self.settings
        together = objective.scope == "batch"
        size = len(draw.examples)
        views = torch.randint(2**31, (size,), generator=generator_of("views", self.seed, draw.step)).tolist()
        parts: list[list[Group]] = [[] for _ in range(settings.accumulate)]
        for number, rows in enumerate(group_batch(size, groups=1 if together else settings.groups)):
            coalition = self._coalition(draw.step, number, objective)
            examples = draw.examples[rows]
            counted = objective.counted(examples)
            for part in range(settings.accumulate):
                whole = self._whole(examples[part :: settings.accumulate])
                own = [whole.examples[row] for row in whole.rows]
                if not own:
                    continue
                seen = views[rows][part :: settings.accumulate]
                features = self.bank.of_examples(
                    draw.task, own, coalition, views=[seen[row] for row in whole.rows]
                )
                share = (
                    len(own) / size
                    if together
                    else len(examples) / size * objective.counted(own) / max(1, counted)
                )
                whole_share = len(whole.examples) / size
                parts[part].append(Group(draw.task, own, features, coalition, share, whole, whole_share))
        if self.pin:
            parts = [[group.pinned() for group in part] for part in parts]
        return Batch(draw.step, draw.task, [part for part in parts if part])

    def _whole(self, examples: Sequence[Example]) -> Whole:
        return Alone(examples) if self.processes.count == 1 else Shared(examples, self.processes)

    def _coalition(self, step: int, group: int, objective: Objective) -> Coalition:
        if self.mode == "blind":
            return ()
        return self.dropout.coalition(
            self.seed, step, group, progress=step / self.steps, empty=empty_of(objective)
        )


def empty_of(objective: Objective) -> Literal["draw", "never"]:
    """Whether VE-dropout may leave no encoder in what an objective trains on."""
    return "never" if objective.empty == "skip" else "draw"
