"""The order of a run: data, features, trained models, cells, side files, report. Each step keeps what is there.

Handed a `RunConfig`; hands on a complete run folder. Everything that can be refused is refused before the run folder is
made.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from tqdm import tqdm  # type: ignore[import-untyped]

from analysis.report import write_report
from analysis.terminal import summary_lines
from encoders import load_encoder
from encoders.base import Encoder
from encoders.extract import Shard
from experiments.cells import Cell, write_examples, write_table
from experiments.config import RunConfig
from experiments.cost import encoder_cost, similarity
from experiments.data import PARTS, FeatureBank, TaskData, check_data, fill_stores, find_data, read_tasks
from experiments.errors import ConfigError
from experiments.evaluate import Evaluator
from experiments.model import TaskModel, load_weights, save_weights, write_json
from experiments.processes import Processes
from experiments.training.batches import Mode
from experiments.training.checkpoint import Checkpoints
from experiments.training.launch import make_accelerator
from experiments.training.loop import make_dropout, train_model
from fusion.model import FusionModel
from fusion.types import all_coalitions
from tasks.base import Answer

PACKAGES = ("torch", "timm", "open_clip_torch", "transformers", "accelerate", "einops", "numpy", "pyarrow")
VALIDATION_LIMIT = 400
OBSERVED = 1024
"""Training images of a task over which features are standardised, at most."""
Job = tuple[Cell, Callable[[], list[Answer]]]


def run_pipeline(config: RunConfig, *, say: Callable[[str], None]) -> Path:
    """See `experiments.combine.run`."""
    started = time.perf_counter()
    timings: dict[str, float] = {}

    def finish(step: str) -> None:
        timings[step] = round(time.perf_counter() - started - sum(timings.values()), 1)

    _check_run_folder(config)
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        what = f"{len(config.encoders)} encoders, {len(config.tasks)} tasks, seeds {list(config.seeds)}"
        say(f"run {config.name}: {what}")
    check_data(config)
    encoders = _load_encoders(config, str(accelerator.device))
    with accelerator.main_process_first():  # the others find the embedded world in place
        data = read_tasks(config, find_data(config))
    finish("data")
    bank = fill_stores(
        config,
        data,
        encoders,
        shard=Shard(accelerator.process_index, accelerator.num_processes),
        progress="bar" if accelerator.is_local_main_process else "none",
        wait=accelerator.wait_for_everyone,
    )
    data = {name: item.without(bank.lacking(item)) for name, item in data.items()}
    finish("features")
    folder = config.folder
    if accelerator.is_main_process:
        write_json(folder / "config.json", config.to_dict())
        write_json(folder / "exclusions.json", _exclusions(data, say))
    for seed in config.seeds:
        _train_and_answer(config, data, bank, encoders, seed=seed, accelerator=accelerator, finish=finish)
    if accelerator.is_main_process:
        _side_files(config, data, bank, encoders)
        finish("side files")
        if not (folder / "environment.json").exists():
            write_json(folder / "environment.json", {**environment(accelerator), "seconds": timings})
        report = write_report(folder)
        for line in summary_lines(report.results):
            say(line)
        say(f"report: {folder / 'report.html'} ({time.perf_counter() - started:.0f} s)")
    return folder


def _exclusions(data: Mapping[str, TaskData], say: Callable[[str], None]) -> dict[str, Any]:
    """The images that each split was left without."""
    found = {name: {part: list(split.excluded) for part, split in item.splits.items()} for name, item in data.items()}
    for name, parts in found.items():
        if any(parts.values()):
            say(f"{name}: left out " + ", ".join(f"{len(images)} images of {part}" for part, images in parts.items()))
    return found


def _check_run_folder(config: RunConfig) -> None:
    """Refuses to mix two configurations in one folder."""
    path = config.folder / "config.json"
    if not path.exists():
        return
    before, now = json.loads(path.read_text()), json.loads(json.dumps(config.to_dict()))
    skipped = {"device", "runs", "cache", "run"}
    changed = [key for key in now if key not in skipped and before.get(key) != now[key]]
    if changed:
        raise ConfigError(
            f"{config.folder} holds a run with other settings ({', '.join(changed)}): name another with --run"
        )


def _load_encoders(config: RunConfig, device: str) -> dict[str, Encoder]:
    return {alias: load_encoder(f"{alias}={spec}", device=device) for alias, spec in config.encoders.items()}


def build_model(
    config: RunConfig, data: Mapping[str, TaskData], encoders: Mapping[str, Encoder], *, seed: int
) -> TaskModel:
    """A fresh model with a head per task."""
    widths = {alias: encoder.width for alias, encoder in encoders.items()}
    fusion = FusionModel(config.fusion, widths, seed=seed)
    torch.manual_seed(seed)
    objectives = {name: item.task.objective(item.splits["train"], config.fusion.width) for name, item in data.items()}
    settings = config.train_of(*data)
    return TaskModel(fusion, objectives, dropout=None if settings.fill == "drop" else make_dropout(widths, settings))


def _train_and_answer(
    config: RunConfig,
    data: Mapping[str, TaskData],
    bank: FeatureBank,
    encoders: Mapping[str, Encoder],
    *,
    seed: int,
    accelerator: Accelerator,
    finish: Callable[[str], None],
) -> None:
    processes = Processes.of(accelerator)
    jobs = {"joint": dict(data)} if config.train.joint else {name: {name: item} for name, item in data.items()}
    for name, part in jobs.items():
        masked = _trained(config, part, bank, encoders, name=name, mode="masked", seed=seed, accelerator=accelerator)
        finish(f"training {name} seed {seed}")
        for task, item in part.items():
            _answer(config, task, item, bank, masked, seed=seed, processes=processes)
        finish(f"coalitions {name} seed {seed}")
        sighted = {t: item for t, item in part.items() if masked.objective(t).empty == "train"}
        if sighted:
            blind = _trained(
                config, sighted, bank, encoders, name=name, mode="blind", seed=seed, accelerator=accelerator
            )
            for task, item in sighted.items():
                cell = Cell(task, seed, (), mode="blind")
                evaluator = _evaluator(config, blind, bank, item, "test", processes=processes)
                _write_missing(config.folder, [(cell, partial(evaluator.answers, ()))], processes)
            finish(f"blind {name} seed {seed}")


def _trained(
    config: RunConfig,
    data: Mapping[str, TaskData],
    bank: FeatureBank,
    encoders: Mapping[str, Encoder],
    *,
    name: str,
    mode: Mode,
    seed: int,
    accelerator: Accelerator,
) -> TaskModel:
    """The model of this name: loaded where it was finished before, else trained and saved."""
    model = build_model(config, data, encoders, seed=seed).to(accelerator.device)
    path = config.folder / "train" / f"{name}-{mode}-{seed}"
    processes, checkpoints = Processes.of(accelerator), Checkpoints(path.with_suffix(".checkpoints"))
    if processes.agree(load_weights(model, path) is not None):
        checkpoints.clear()
        return model
    full = tuple(encoders) if mode == "masked" else ()
    for task, item in data.items():
        images = item.splits["train"].images()[:OBSERVED]
        for start in range(0, len(images), 256):
            model.fusion.observe(bank.features(task, images[start : start + 256], full, accelerator.device))

    def validate(now: TaskModel) -> dict[str, float]:
        scores = {}
        for task, item in data.items():
            limit = (
                None if item.task.objective is None or now.objective(task).scoring == "gallery" else VALIDATION_LIMIT
            )
            evaluator = _evaluator(config, now, bank, item, "select", limit=limit, processes=processes)
            scores[task] = item.task.value(evaluator.answers(full))
        return scores

    record = train_model(
        model,
        data,
        bank,
        config,
        name=name,
        mode=mode,
        seed=seed,
        accelerator=accelerator,
        validate=validate,
        checkpoints=checkpoints,
    )
    if processes.first:
        save_weights(model, path, record)
        checkpoints.clear()
    accelerator.wait_for_everyone()
    return model


def _evaluator(
    config: RunConfig,
    model: TaskModel,
    bank: FeatureBank,
    data: TaskData,
    part: Any,
    *,
    limit: int | None = None,
    processes: Processes,
) -> Evaluator:
    size, precision = config.evaluate.batch_size, config.evaluate.precision
    return Evaluator(
        model, bank, data, part, batch_size=size, precision=precision, limit=limit, processes=processes
    )


def _answer(
    config: RunConfig,
    task: str,
    data: TaskData,
    bank: FeatureBank,
    model: TaskModel,
    *,
    seed: int,
    processes: Processes,
) -> None:
    """All coalitions on test, the single encoders on validation, shuffled images, re-ranking, attention."""
    folder, full = config.folder, bank.aliases
    gallery = model.objective(task).scoring == "gallery"
    test = _evaluator(config, model, bank, data, "test", processes=processes)
    select = _evaluator(config, model, bank, data, "select", processes=processes)
    size = config.evaluate.rerank
    jobs: list[Job] = [
        (Cell(task, seed, coalition), partial(test.answers, coalition))
        for coalition in all_coalitions(full)
        if coalition or not gallery
    ]
    for coalition in [*[(alias,) for alias in full], full]:
        jobs.append((Cell(task, seed, coalition, split="select"), partial(select.answers, coalition)))
    jobs.append((Cell(task, seed, full, mode="shuffled"), partial(test.answers, full, shuffled=True)))
    if gallery:
        jobs.append((Cell(task, seed, full, mode="reranked"), partial(test.reranked, full, size=size)))
    _write_missing(folder, jobs, processes, name=f"coalitions {task}")
    path = folder / "attention" / f"{task}.{seed}.parquet"
    if not processes.agree(path.exists()):
        rows = test.attention(full, examples=config.evaluate.attention_examples)
        if processes.first:
            write_table(pa.Table.from_pylist([{**row, "seed": seed} for row in rows]), path)


def _write_missing(folder: Path, jobs: Sequence[Job], processes: Processes, *, name: str | None = None) -> None:
    """Computes the cells that are not there yet, all processes together, and the first one writes them."""
    there = processes.agree([cell.exists(folder) for cell, _ in jobs])
    missing = [job for job, exists in zip(jobs, there, strict=True) if not exists]
    quiet = name is None or not missing or not processes.first
    for cell, answer in tqdm(missing, unit="cell", desc=name, disable=quiet):
        answers = answer()
        if processes.first:
            cell.write(folder, answers)


def _side_files(
    config: RunConfig, data: Mapping[str, TaskData], bank: FeatureBank, encoders: Mapping[str, Encoder]
) -> None:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    folder = config.folder
    parts = [pq.read_table(folder / "attention" / f"{task}.{seed}.parquet") for task in data for seed in config.seeds]
    write_table(pa.concat_tables(parts), folder / "attention.parquet")
    if not (folder / "baselines.json").exists():
        baselines = {}
        for name, item in data.items():
            found = item.task.baselines(item.splits["train"], item.splits["test"])
            baselines[name] = {
                "chance": found.chance,
                "majority": found.majority,
                "prior": found.prior,
                "metric": item.task.metric,
            }
        write_json(folder / "baselines.json", baselines)
    if not (folder / "examples.parquet").exists():
        write_examples(
            folder,
            [(name, part, e) for name, item in data.items() for part in PARTS[1:] for e in item.splits[part].examples],
        )
    if not (folder / "cost.json").exists():
        write_json(folder / "cost.json", {alias: encoder_cost(encoder) for alias, encoder in encoders.items()})
    if not (folder / "similarity.json").exists():
        write_json(folder / "similarity.json", similarity(data, bank))


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Versions, device and commit: what a reader needs to run this again."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        **_commit(),
        "command": " ".join(["python -m experiments.combine", *sys.argv[1:]]),
    }


def _commit() -> dict[str, Any]:
    """Commit of the source tree and whether it was changed; None outside a git checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
