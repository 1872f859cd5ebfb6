"""The models that a run trains, as independent jobs: what each reads, and which cells it answers.

Handed a configuration; hands on `Job`s. `first_jobs` need nothing but features. `control_jobs` are made of one encoder,
the best single one on validation, and so come after the masked models. Nothing here trains or reads a feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from experiments.config import RunConfig
from experiments.data import Source
from experiments.streams import Streams
from fusion.types import Coalition, all_coalitions, coalition_name

Control = Literal["duplicate", "seeds", "matched"]
Kind = Literal["masked", "blind", "retrained"] | Control
CONTROLS: tuple[Control, ...] = ("duplicate", "seeds", "matched")
"""Controls that are trained on several streams of one encoder; `analysis.controls` defines them."""


@dataclass(frozen=True, slots=True)
class Job:
    """A model to train and the cells that it answers.

    Attributes:
        kind: the mode of its cells.
        name: what it is trained on: a task, or "joint".
        tasks: the tasks it is trained on.
        answers: those of them whose cells it answers.
        seed: of initial weights, batches and VE-dropout.
        of: what its cells name: the encoders that it is made of.
        sources: what each of its inputs reads.
        encoders: specs of the encoders that they read, where these are not the run's own.
        varies: whether inputs are dropped at random in training.
    """

    kind: Kind
    name: str
    tasks: tuple[str, ...]
    answers: tuple[str, ...]
    seed: int
    of: Coalition
    sources: Mapping[str, Source]
    encoders: Mapping[str, str] = field(default_factory=dict)
    varies: bool = True

    @property
    def stem(self) -> str:
        """Name of its files in the run's `train` folder."""
        made_of = f"-{coalition_name(self.of)}" if self.kind not in ("masked", "blind") else ""
        return f"{self.name}-{self.kind}{made_of}-{self.seed}"

    def __str__(self) -> str:
        made_of = f" of {coalition_name(self.of)}" if self.kind not in ("masked", "blind") else ""
        return f"{self.name}: {self.kind}{made_of}, seed {self.seed}"


def groups_of(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """Tasks that share a model, by the model's name."""
    return {"joint": config.tasks} if config.train.joint else {task: (task,) for task in config.tasks}


def first_jobs(config: RunConfig, *, galleries: Mapping[str, bool]) -> list[Job]:
    """Masked and blind models, and models of single coalitions.

    Args:
        galleries: by task, whether it ranks a gallery, which nobody can do blind.
    """
    full = tuple(config.encoders)
    jobs = []
    for seed in config.seeds:
        for name, tasks in groups_of(config).items():
            own = {alias: Source(alias) for alias in full}
            jobs.append(Job("masked", name, tasks, tasks, seed, full, own))
            blind = tuple(task for task in tasks if not galleries[task])
            if blind and config.controls != "none":
                jobs.append(Job("blind", name, blind, blind, seed, (), own))
            for chosen in _retrained(config, full):
                parts = {alias: own[alias] for alias in chosen}
                jobs.append(Job("retrained", name, tasks, tasks, seed, chosen, parts, varies=False))
    return jobs


def _retrained(config: RunConfig, full: Coalition) -> list[Coalition]:
    """Coalitions that get a model of their own; `averaged` answers with those of the single encoders."""
    if config.coalitions == "both":
        return [coalition for coalition in all_coalitions(full) if coalition]
    return [(alias,) for alias in full] if config.controls == "full" else []


def control_jobs(
    config: RunConfig, *, best: Mapping[str, str], streams: Mapping[tuple[Control, str], Streams]
) -> list[Job]:
    """Models of several streams of one encoder, with the run's VE-dropout.

    Args:
        best: by task, the best single encoder on validation.
        streams: by control and encoder, what a model reads; a control that an encoder cannot give is absent.
    """
    jobs = []
    for seed in config.seeds:
        for name, tasks in groups_of(config).items():
            for alias in dict.fromkeys(best[task] for task in tasks):
                answers = tuple(task for task in tasks if best[task] == alias)
                for kind in CONTROLS:
                    made = streams.get((kind, alias))
                    if made is not None:
                        jobs.append(
                            Job(kind, name, tasks, answers, seed, (alias,), made.sources, encoders=made.encoders)
                        )
    return jobs


def for_inputs(config: RunConfig, job: Job) -> RunConfig:
    """The configuration with what it says of single encoders said of the job's inputs, in their order."""
    inputs = tuple(job.sources)
    names = dict(zip(config.encoders, inputs, strict=False)) if job.kind in CONTROLS else {a: a for a in inputs}

    def changed(values: Mapping[str, Any]) -> dict[str, Any]:
        new = dict(values)
        if not job.varies:
            new |= {"ve_dropout": 0.0, "empty": 0.0}
        elif isinstance(values.get("ve_dropout"), Mapping):
            new["ve_dropout"] = {names[a]: rate for a, rate in values["ve_dropout"].items() if a in names}
        if "freeze" in values:
            new["freeze"] = tuple(name for one in values["freeze"] if (name := _renamed(one, names)) is not None)
        return new

    own = changed({key: getattr(config.train, key) for key in ("ve_dropout", "empty", "freeze")})
    per_task = {task: changed(values) for task, values in config.train.per_task.items()}
    return replace(config, train=replace(config.train, **own, per_task=per_task))


def _renamed(part: str, names: Mapping[str, str]) -> str | None:
    """A frozen part by the input's name; None where it belongs to an encoder that is not read."""
    head, dot, alias = part.partition(".")
    if head != "adapters" or not dot:
        return part
    return f"adapters.{names[alias]}" if alias in names else None
