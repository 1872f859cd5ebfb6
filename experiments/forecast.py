"""What a run will take, before it starts: disk and passes of its features, hours of its models and cells.

Handed a configuration; hands on lines to print. Jobs and cells are those that the run itself would do; their hours come
from a short trial on this machine. No run folder is made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch

from encoders.base import Encoder
from encoders.memory import local_processes
from experiments.cells import Cell
from experiments.config import RunConfig
from experiments.controls import control_streams
from experiments.data import PARTS, check_data, find_data, read_tasks
from experiments.estimate import estimate
from experiments.jobs import Job, control_jobs, first_jobs, for_inputs
from experiments.pipeline import load_encoders
from experiments.training.batches import empty_of
from experiments.training.launch import make_accelerator
from experiments.training.progress import validation_steps
from experiments.training.settings import TrainConfig
from experiments.training.train import make_dropout, num_steps
from experiments.trial import TaskPace, paces, random_bank
from experiments.workshop import Workshop

DRAWS = 200
"""Of VE-dropout, to see how many tokens it leaves."""
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """One model.

    Attributes:
        passes: over its training examples.
        training: seconds, validations included.
        answering: seconds of each of its cells.
    """

    job: Job
    steps: int
    passes: float
    training: float
    answering: Sequence[float]

    @property
    def seconds(self) -> float:
        return self.training + sum(self.answering)


def forecast_lines(config: RunConfig, *, processes: int = 1) -> list[str]:
    """What storing the features and doing the run's jobs will take.

    Args:
        processes: that share the run, each with models of its own.
    """
    check_data(config)
    accelerator = make_accelerator(config)
    encoders = load_encoders(config, str(accelerator.device))
    data = read_tasks(config, find_data(config))
    objectives = {name: item.task.objective(item.splits["train"], 8) for name, item in data.items()}
    workshop = Workshop(config, data, encoders, random_bank(data, encoders), accelerator, objectives)
    jobs, loaded, notes = every_job(workshop)
    paths = [path for item in data.values() for part in PARTS for path in item.paths(part).values()]
    images, root = list(dict.fromkeys(paths)), Path(config.cache) / "features"
    together = {**encoders, **loaded}
    views = sum(encoder.views for encoder in together.values())
    here = min(processes, local_processes())
    lines = ["features", *estimate(together, images, root=root, processes=processes, here=here)]
    lines.append(f"passes: {len(images) * views:,}, each of {len(images):,} images through {views} encoders or views")
    done = [job for job in jobs if workshop.done(job)]
    pace = paces(config, data, workshop.bank, accelerator.device)
    found = [forecast(workshop, job, pace, loaded) for job in jobs if job not in done]
    speed = speed_of(processes, here=here, on_gpu=workshop.device.type == "cuda")
    lines += ["", "models and cells", *model_lines(found, done=len(done), processes=processes, speed=speed)]
    return [*lines, *notes]


def every_job(workshop: Workshop) -> tuple[list[Job], dict[str, Encoder], list[str]]:
    """The jobs of a run, encoders that its controls need beside the run's, and what is assumed or not run.

    Which encoder is the best single one is not known yet: controls are taken to be made of the one with most tokens.
    """
    config, encoders = workshop.config, workshop.encoders
    jobs, loaded, notes = first_jobs(config, galleries=workshop.galleries), dict[str, Encoder](), list[str]()
    if config.controls != "full":
        return jobs, loaded, notes
    heaviest = max(encoders, key=lambda alias: encoders[alias].num_tokens)
    streams, lacking = control_streams(config, encoders, [heaviest], load=workshop.load)
    later = control_jobs(config, best=dict.fromkeys(config.tasks, heaviest), streams=streams)
    for job in later:
        for alias, spec in job.encoders.items():
            if spec not in config.encoders.values():
                loaded.setdefault(f"{alias} of {job.kind}", workshop.load(alias, spec))
    notes.append("the control averaged, which answers with single encoders' models once more, is not counted")
    notes.append(f"controls are made of each task's best single encoder; counted as if that were {heaviest} for all")
    notes += [f"control {control} is not run: {why}" for control, why in lacking.items()]
    return [*jobs, *later], loaded, notes


def forecast(workshop: Workshop, job: Job, pace: Mapping[str, TaskPace], loaded: Mapping[str, Encoder]) -> Forecast:
    """Steps times seconds a step, cells times seconds a cell."""
    settings = for_inputs(workshop.config, job).train_of(*job.tasks)
    tokens = tokens_of(workshop, job, loaded)
    sizes = {task: len(workshop.data[task].splits["train"].examples) for task in job.tasks}
    steps = num_steps(settings, "blind" if job.kind == "blind" else "masked", sum(sizes.values()))
    weights = {task: settings.weights.get(task, 1.0) for task in job.tasks}
    training, shown = 0.0, sum(tokens.values()) if job.shown else 0
    for task in job.tasks:
        seen = seen_tokens(job, settings, tokens, empty=empty_of(workshop.objectives[task]))
        share = weights[task] / sum(weights.values())
        training += share * steps * settings.batch_size * pace[task].training.at(seen)
        count = len(workshop.validation_of(task).splits["select"].examples)
        training += len(validation_steps(steps, settings.validate_steps)) * count * pace[task].answering.at(shown)
    answering = [cell_seconds(workshop, cell, pace[cell.task], tokens, shown) for cell in workshop.cells(job)]
    return Forecast(job, steps, steps * settings.batch_size / sum(sizes.values()), training, answering)


def tokens_of(workshop: Workshop, job: Job, loaded: Mapping[str, Encoder]) -> dict[str, int]:
    """Visual tokens of each of a job's inputs."""
    own = {alias: loaded.get(f"{alias} of {job.kind}") for alias in job.encoders}
    known = {**workshop.encoders, **{alias: encoder for alias, encoder in own.items() if encoder is not None}}
    specs = {spec: alias for alias, spec in workshop.config.encoders.items()}

    def count(name: str) -> int:
        return known[name if name in known else specs[job.encoders[name]]].num_tokens

    return {name: count(source.encoder) // source.parts for name, source in job.sources.items()}


def seen_tokens(
    job: Job, settings: TrainConfig, tokens: Mapping[str, int], *, empty: Literal["draw", "never"]
) -> float:
    """Visual tokens that a training example has on average, after VE-dropout."""
    if job.inputs == "none":
        return 0.0
    if job.inputs == "fixed" or settings.fill != "drop":
        return float(sum(tokens.values()))
    dropout = make_dropout(dict.fromkeys(tokens, 1), settings)
    draws = [dropout.coalition(0, k, 0, progress=k / DRAWS, empty=empty) for k in range(DRAWS)]
    return sum(tokens[name] for drawn in draws for name in drawn) / DRAWS


def cell_seconds(workshop: Workshop, cell: Cell, pace: TaskPace, tokens: Mapping[str, int], shown: int) -> float:
    """Answers of one coalition to one split; re-ranking encodes pairs of each query with its nearest."""
    split = workshop.data[cell.task].splits["select" if cell.split == "select" else "test"]
    left = cell.mode == "masked" and cell.removal == "drop"
    seen = sum(tokens[alias] for alias in cell.coalition) if left else shown
    seconds = len(split.examples) * pace.answering.at(seen)
    if cell.mode == "reranked":
        pairs = workshop.config.evaluate.rerank * (len(split.examples) + len(split.images()))
        seconds += pairs * pace.matching
    return seconds


def speed_of(processes: int, *, here: int, on_gpu: bool) -> float:
    """How many times as fast as one process so many are, each with models of its own.

    Args:
        here: how many of them are on each machine; unless each has a GPU, they have its cores together, of which the
            one that was measured used its own threads.
    """
    shared = here if on_gpu else min(here, max(1.0, (os.cpu_count() or 1) / torch.get_num_threads()))
    return max(1, processes // here) * shared


def model_lines(found: Sequence[Forecast], *, done: int, processes: int, speed: float) -> list[str]:
    """A row for models that differ in seed, encoders or control alone, and all together.

    Args:
        speed: of all processes together, in that of one.
    """

    def kind(one: Forecast) -> tuple[str, str, int]:
        return one.job.name, one.job.kind, len(one.job.of)

    head = ("model", "models", "steps", "passes", "training one", "cells", "answering one", "in all")
    rows: list[tuple[str, ...]] = [head]
    for (name, what, count), members in groupby(sorted(found, key=kind), key=kind):
        models = list(members)
        cells = [seconds for one in models for seconds in one.answering]
        made_of = f" of {count}" if what == "retrained" else ""
        rows.append(
            (
                f"{name}: {what}{made_of}",
                f"{len(models)}",
                f"{models[0].steps:,}",
                f"{models[0].passes:.2g}",
                _durations([one.training for one in models]),
                f"{len(cells)}",
                _durations(cells),
                duration(sum(one.seconds for one in models)),
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = []
    for row in rows:
        aligned = (f"{cell:{'>' if k else '<'}{widths[k]}}" for k, cell in enumerate(row))
        lines.append("  " + "  ".join(aligned))
    total = sum(one.seconds for one in found) / HOUR / speed
    share = f"{processes} processes like this one" if processes > 1 else "one process"
    lines.append(f"  in all about {total:.2g} h for {share}, an estimate from a trial of a few steps on this machine")
    return [*lines, f"  {done} models are there already and not counted"] if done else lines


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    for size, unit in ((HOUR, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _durations(seconds: Sequence[float]) -> str:
    """The mean, with the most where that is something else."""
    mean, most = sum(seconds) / len(seconds), max(seconds)
    return duration(mean) if most < 1.05 * mean else f"{duration(mean)} (at most {duration(most)})"
