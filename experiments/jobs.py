"""The models that a run trains, as independent jobs: what each reads, and which cells it answers.

Handed a configuration; hands on `Job`s. `first_jobs` need nothing but features. `control_jobs` are made of one encoder,
the best single one on validation, and so come after the masked models. Nothing here trains or reads a feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from experiments.bank import Source
from experiments.config import RunConfig
from experiments.streams import Streams
from fusion.types import Coalition, all_coalitions, coalition_name

Control = Literal["duplicate", "seeds", "matched"]
Kind = Literal["masked", "blind", "retrained"] | Control
Table = Literal["masked", "retrained"]
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
        inputs: "vary" where they are dropped at random in training, "fixed" where all are present, "none" where
            none ever is.
        leads: whether it answers what is asked of all encoders alone: with other images, re-ranked, its attention.
        mlp_ratio: of its trunk, where it is not the run's.
    """

    kind: Kind
    name: str
    tasks: tuple[str, ...]
    answers: tuple[str, ...]
    seed: int
    of: Coalition
    sources: Mapping[str, Source]
    encoders: Mapping[str, str] = field(default_factory=dict)
    inputs: Literal["vary", "fixed", "none"] = "vary"
    leads: bool = False
    mlp_ratio: int | float | None = None

    @property
    def shown(self) -> Coalition:
        """The inputs that are present when it answers for what it is made of."""
        return () if self.inputs == "none" else tuple(self.sources)

    @property
    def stem(self) -> str:
        """Name of its files in the run's `train` folder."""
        made_of = f"-{coalition_name(self.of) or 'none'}" if self.kind not in ("masked", "blind") else ""
        return f"{self.name}-{self.kind}{made_of}-{self.seed}"

    def __str__(self) -> str:
        made_of = f" of {coalition_name(self.of) or 'no encoder'}" if self.kind not in ("masked", "blind") else ""
        return f"{self.name}: {self.kind}{made_of}, seed {self.seed}"


def groups_of(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """Tasks that share a model, by the model's name."""
    return {"joint": config.tasks} if config.train.joint else {task: (task,) for task in config.tasks}


def table_of(config: RunConfig) -> Table:
    """The mode of the cells that the table of coalitions is made of."""
    return "retrained" if config.coalitions == "retrained" else "masked"


def first_jobs(config: RunConfig, *, galleries: Mapping[str, bool]) -> list[Job]:
    """Masked and blind models, and models of single coalitions.

    Where every coalition has a model of its own, that of no encoder is the blind one too.

    Args:
        galleries: by task, whether it ranks a gallery, which nobody can do blind.
    """
    full = tuple(config.encoders)
    jobs = []
    for seed in config.seeds:
        for name, tasks in groups_of(config).items():
            own = {alias: Source(alias) for alias in full}
            blind = tuple(task for task in tasks if not galleries[task])
            masked = table_of(config) == "masked"
            if masked:
                jobs.append(Job("masked", name, tasks, tasks, seed, full, own, leads=True))
            if blind and masked and config.controls != "none":
                jobs.append(Job("blind", name, blind, blind, seed, (), own, inputs="none"))
            if blind and not masked:
                jobs.append(Job("retrained", name, blind, blind, seed, (), own, inputs="none"))
            for chosen in _retrained(config, full):
                parts, leads = {alias: own[alias] for alias in chosen}, chosen == full and not masked
                jobs.append(Job("retrained", name, tasks, tasks, seed, chosen, parts, inputs="fixed", leads=leads))
    return jobs


def _retrained(config: RunConfig, full: Coalition) -> list[Coalition]:
    """Coalitions of encoders that get a model of their own; `averaged` answers with those of the single ones."""
    if config.coalitions != "masked":
        return [coalition for coalition in all_coalitions(full) if coalition]
    return [(alias,) for alias in full] if config.controls == "full" else []


def control_jobs(
    config: RunConfig, *, best: Mapping[str, str], streams: Mapping[tuple[Control, str], Streams]
) -> list[Job]:
    """Models of several streams of one encoder, trained as the run's model of all encoders is.

    Args:
        best: by task, the best single encoder on validation.
        streams: by control and encoder, what a model reads; a control that an encoder cannot give is absent.
    """
    jobs: list[Job] = []
    inputs: Literal["vary", "fixed"] = "vary" if table_of(config) == "masked" else "fixed"
    for seed in config.seeds:
        for name, tasks in groups_of(config).items():
            for alias in dict.fromkeys(best[task] for task in tasks):
                answers = tuple(task for task in tasks if best[task] == alias)
                for kind in CONTROLS:
                    made = streams.get((kind, alias))
                    if made is not None:
                        one = Job(kind, name, tasks, answers, seed, (alias,), made.sources, encoders=made.encoders)
                        jobs.append(replace(one, inputs=inputs, mlp_ratio=made.mlp_ratio))
    return jobs


def for_inputs(config: RunConfig, job: Job) -> RunConfig:
    """The configuration with what it says of single encoders said of the job's inputs, in their order."""
    inputs = tuple(job.sources)
    names = dict(zip(config.encoders, inputs, strict=False)) if job.kind in CONTROLS else {a: a for a in inputs}

    def changed(values: Mapping[str, Any]) -> dict[str, Any]:
        new = dict(values)
        if job.inputs == "fixed":
            new |= {"ve_dropout": 0.0, "empty": 0.0}
        elif job.inputs == "none":  # as many steps as the models of other coalitions, where it is one of those
            new |= {"ve_dropout": 0.0, "empty": 1.0, "ve_warmup": 0.0, "fill": "drop"}
        elif isinstance(values.get("ve_dropout"), Mapping):
            new["ve_dropout"] = {names[a]: rate for a, rate in values["ve_dropout"].items() if a in names}
        if "freeze" in values:
            new["freeze"] = tuple(name for one in values["freeze"] if (name := _renamed(one, names)) is not None)
        return new

    own = changed({key: getattr(config.train, key) for key in ("ve_dropout", "empty", "freeze")})
    per_task = {task: changed(values) for task, values in config.train.per_task.items()}
    fusion = config.fusion if job.mlp_ratio is None else replace(config.fusion, mlp_ratio=job.mlp_ratio)
    return replace(config, fusion=fusion, train=replace(config.train, **own, per_task=per_task))


def _renamed(part: str, names: Mapping[str, str]) -> str | None:
    """A frozen part by the input's name; None where it belongs to an encoder that is not read."""
    head, dot, alias = part.partition(".")
    if head != "adapters" or not dot:
        return part
    return f"adapters.{names[alias]}" if alias in names else None
