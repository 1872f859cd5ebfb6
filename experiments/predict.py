"""`python -m experiments.predict RUN --task T --split S --out FILE`: what a run's model answers on any official split.

The file is in the dataset's submission format, so that test sets whose answers are not public can be sent to their
servers. Features of images that the run did not see are extracted first. `load_run_model` is for code of your own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import Parser, exit_status

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

    from encoders.base import Encoder
    from experiments.config import RunConfig
    from experiments.data import TaskData
    from experiments.jobs import Job
    from experiments.model import TaskModel
    from tasks.base import Answer


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = Parser(prog="python -m experiments.predict", description=__doc__)
    made.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo-seed0")
    made.add_argument("--task", required=True, help="one of the run's")
    made.add_argument("--split", required=True, help="test, select, or an official name such as test-dev2015")
    made.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the predictions are written")
    made.add_argument("--coalition", help="encoders that the model sees, such as vit+clip, or none (default: all)")
    made.add_argument("--seed", type=int, help="of the model (default: the run's first)")
    made.add_argument("--data", help="folder with one folder per dataset, if it was moved")
    made.add_argument("--images", type=Path, metavar="FOLDER", help="where the split's images lie")
    made.add_argument("--device", help="cpu, cuda or cuda:0 (default: what accelerate finds)")
    return made


@dataclass(frozen=True, slots=True)
class RunModel:
    """A trained model of a run, ready to answer.

    Attributes:
        config: the run's settings.
        job: what the model was trained on and with.
        data: its tasks, whose training splits make their vocabularies.
        encoders: the run's.
    """

    model: TaskModel
    config: RunConfig
    job: Job
    data: dict[str, TaskData]
    encoders: dict[str, Encoder]
    accelerator: Accelerator


def load_run_model(
    folder: Path,
    task: str,
    *,
    coalition: Sequence[str] | None = None,
    seed: int | None = None,
    data: str | None = None,
    device: str | None = None,
) -> RunModel:
    """Loads the model that answers for a coalition in a run's table: the masked one, or the one trained on it alone.

    Args:
        folder: of the run.
        task: one of the run's.
        coalition: aliases that it is to see; None for all.
        seed: of the model; None for the run's first.
        data: where the datasets lie now; None for where they lay.

    Raises:
        ConfigError: the folder is not a run's; the run has no such task, encoder, seed or finished model; data or
            encoders are not the run's.
    """
    from experiments.data import find_data, read_tasks
    from experiments.errors import ConfigError, near
    from experiments.jobs import for_inputs
    from experiments.model import load_weights
    from experiments.pipeline import load_encoders
    from experiments.processes import ALONE
    from experiments.run_folder import inputs_of, other_inputs, refuse_together
    from experiments.training.launch import make_accelerator
    from experiments.workshop import build_model

    _refuse_no_run(folder)
    folder = folder.resolve()
    config = _config_of(folder, data=data, device=device)
    if task not in config.tasks:
        raise ConfigError(f"{folder} has no task {task!r}; {near(task, config.tasks)}")
    for alias in coalition or ():
        if alias not in config.encoders:
            raise ConfigError(f"{folder} has no encoder {alias!r}; {near(alias, config.encoders)}")
    seed = config.seeds[0] if seed is None else seed
    if seed not in config.seeds:
        raise ConfigError(f"{folder} has no seed {seed}; {near(str(seed), map(str, config.seeds))}")
    job = _job_of(config, task, coalition, seed)
    accelerator = make_accelerator(config)
    encoders = load_encoders(config, str(accelerator.device))
    read = read_tasks(replace(config, tasks=job.tasks), find_data(config))
    refuse_together(ALONE, lambda: other_inputs(folder, inputs_of(config, read, encoders)))
    left_out = json.loads((folder / "exclusions.json").read_text(encoding="utf-8"))
    # As it was trained: vocabularies are in the order in which their answers come.
    read = {name: item.without({i for part in left_out[name].values() for i in part}) for name, item in read.items()}
    widths = {name: encoders[source.encoder].width for name, source in job.sources.items()}
    model = build_model(for_inputs(config, job), read, widths, seed=job.seed).to(accelerator.device)
    weights = folder / "train" / job.stem
    if load_weights(model, weights) is None:
        raise ConfigError(f"{weights}.safetensors is not there, or not finished: run the run's command again")
    return RunModel(model, config, job, read, encoders, accelerator)


def _refuse_no_run(folder: Path) -> None:
    """Refuses a folder that is not a run's, and names those beside it, or in `runs/`, that are. Raises ConfigError."""
    from experiments.errors import ConfigError, near
    from experiments.run_folder import CONFIG

    if (folder / CONFIG).is_file():
        return
    places = dict.fromkeys((folder.parent, Path("runs")))
    found = [str(path.parent) for place in places for path in sorted(place.glob(f"*/{CONFIG}"))]
    nearest = f" {near(str(folder), found)}" if found else ""
    raise ConfigError(f"{folder / CONFIG} is missing: is {folder} the folder of a finished run?{nearest}")


def _config_of(folder: Path, *, data: str | None, device: str | None) -> RunConfig:
    from experiments.checks import check_device
    from experiments.config import read_config, with_values
    from experiments.run_folder import CONFIG

    config = read_config(folder / CONFIG)
    if device is not None:
        check_device(device)
    train = replace(config.train, precision="no", trackers=())  # nothing is trained
    moved = replace(config, train=train, runs=str(folder.parent), run=folder.name, device=device)
    return with_values(moved, data=data)


def _job_of(config: RunConfig, task: str, coalition: Sequence[str] | None, seed: int) -> Job:
    """The job whose cell of this coalition is in the run's table."""
    from experiments.errors import ConfigError
    from experiments.jobs import first_jobs, table_of
    from tasks import load_task

    specs = {name: f"{name}={config.own_tasks[name]}" if name in config.own_tasks else name for name in config.tasks}
    galleries = {name: load_task(spec).scoring == "gallery" for name, spec in specs.items()}
    seen = set(config.encoders if coalition is None else coalition)
    if not seen and galleries[task]:
        raise ConfigError(f"{task} ranks a gallery, which no model does without encoders: name some with --coalition")
    jobs = [job for job in first_jobs(config, galleries=galleries) if task in job.answers and job.seed == seed]
    table = [job for job in jobs if job.kind == table_of(config)]
    return next(job for job in table if job.kind == "masked" or set(job.of) == seen)


def predict(
    run: RunModel, task: str, split: str, *, coalition: Sequence[str] | None = None, images: Path | None = None
) -> tuple[list[Answer], float | None]:
    """Answers on an official split, and the official metric where the split's answers are public.

    Args:
        split: train, select, test, or an official name.
        images: where its images lie, if not in a usual place.

    Raises:
        TaskError, DatasetError: there is no such split, or a file of it is not what it should be.
    """
    from experiments.data import PARTS, TaskData, find_data
    from experiments.evaluate import Evaluator
    from experiments.stores import stock
    from tasks.check import read_exclusions

    config, own = run.config, run.data[task].task
    place = images or (Path(config.images[task]) if task in config.images else None)
    read = own.read(find_data(config) / task, split, images=place)
    if config.exclude is not None:
        read = read.without(read_exclusions(Path(config.exclude)))
    read.check_images(remedy="--images FOLDER")
    item = TaskData(own, dict.fromkeys(PARTS, read))
    bank = stock(config, {task: item}, run.encoders, accelerator=run.accelerator)
    item = item.without(bank.lacking(item))
    dropout, settings = run.model.dropout, config.evaluate
    evaluator = Evaluator(
        run.model,
        bank.reading(run.job.sources),
        item,
        "test",
        batch_size=settings.batch_size,
        precision=settings.precision,
        fills=None if dropout is None else {dropout.fill: dropout},
    )
    seen = tuple(alias for alias in run.job.sources if coalition is None or alias in coalition)
    answers = evaluator.answers(seen, removal="drop" if dropout is None else dropout.fill)
    public = own.scoring == "gallery" or all(example.target is not None for example in item.splits["test"].examples)
    return answers, own.value(answers) if public else None


def main(argv: list[str] | None = None, *, say: Callable[[str], None] = print) -> int:
    """Exit status 0; 1 for an error that the user can mend, told in one line."""
    args = parser().parse_args(argv)
    return exit_status(lambda: _predict(args, say), kept="features")


def _predict(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    named = "" if args.coalition == "none" else args.coalition
    coalition = None if named is None else [alias for alias in named.split("+") if alias]
    run = load_run_model(
        args.run, args.task, coalition=coalition, seed=args.seed, data=args.data, device=args.device
    )
    answers, value = predict(run, args.task, args.split, coalition=coalition, images=args.images)
    task = run.data[args.task].task
    task.export(answers, args.out)
    scored = "its answers are not public" if value is None else f"{task.metric} {100 * value:.2f} %"
    say(f"{args.out}: {len(answers):,} answers of {run.job} on {args.split} ({scored})")


if __name__ == "__main__":
    raise SystemExit(main())
