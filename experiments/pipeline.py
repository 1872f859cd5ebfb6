"""The order of a run: data, features, trained models, cells, side files, report. Each step keeps what is there.

Handed a `RunConfig`; hands on a complete run folder. Everything that can be refused is refused before the run folder is
made.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from analysis.report import write_report
from analysis.terminal import summary_lines
from encoders import load_encoder
from encoders.base import Encoder
from encoders.memory import local_processes
from experiments.bank import FeatureBank
from experiments.cells import write_examples, write_table
from experiments.config import RunConfig
from experiments.controls import best_single, control_streams
from experiments.cost import encoder_cost, similarity
from experiments.data import PARTS, TaskData, check_data, find_data, read_tasks, world_is_there
from experiments.jobs import control_jobs, first_jobs, groups_of
from experiments.model import write_json
from experiments.precision import slow_precision
from experiments.processes import Processes
from experiments.run_folder import (
    begin_folder,
    inputs_of,
    other_inputs,
    other_settings,
    refuse_together,
    widened,
    with_images,
)
from experiments.share import Share, refuse_one_gpu
from experiments.stores import sibling_lines, stock
from experiments.training.launch import make_accelerator
from experiments.workshop import Workshop, build_model

PACKAGES = ("torch", "timm", "open_clip_torch", "transformers", "accelerate", "einops", "numpy", "pyarrow")


def run_pipeline(config: RunConfig, *, share: Share, say: Callable[[str], None]) -> Path:
    """See `experiments.combine.run`."""
    started = time.perf_counter()
    timings: dict[str, float] = {}

    def finish(step: str) -> None:
        timings[step] = round(time.perf_counter() - started - sum(timings.values()), 1)

    accelerator = make_accelerator(config)
    refuse = partial(refuse_together, Processes.of(accelerator))
    refuse(lambda: other_settings(config))
    refuse_one_gpu(config.device, processes=local_processes())
    first = accelerator.is_main_process and share.index == 0
    if first:
        what = f"{len(config.encoders)} encoders, {len(config.tasks)} tasks, seeds {list(config.seeds)}"
        say(f"run {config.name}: {what}, {'the embedded world' if config.data is None else config.data}")
        if config.data is None:
            say("the embedded world: rendered pictures in the official formats, not the datasets; --data names these")
        if (note := slow_precision(config)) is not None:
            say(note)
    check_data(config)
    encoders = load_encoders(config, str(accelerator.device))
    if share.index > 0 and config.data is None:
        share.wait(lambda: world_is_there(config))
    with accelerator.main_process_first():  # the others find the embedded world in place
        data = read_tasks(config, find_data(config))
    inputs = inputs_of(config, data, encoders)
    refuse(lambda: other_inputs(config.folder, inputs))
    build_model(config, data, {alias: encoder.width for alias, encoder in encoders.items()}, seed=0)  # can it be?
    finish("data")
    bank = stock(config, data, encoders, accelerator=accelerator, share=share)
    for line in sibling_lines(config, encoders) if first else ():
        say(line)
    data = {name: item.without(bank.lacking(item)) for name, item in data.items()}
    finish("features")
    folder, inputs = config.folder, with_images(inputs, data, bank)
    refuse(lambda: other_settings(config) or other_inputs(folder, inputs))
    if accelerator.is_main_process:
        excluded = begin_folder(config, data, inputs)
        for line in _exclusion_lines(excluded) if first else ():
            say(line)
    objectives = {name: item.task.objective(item.splits["train"], 8) for name, item in data.items()}
    workshop = Workshop(config, data, encoders, bank, accelerator, objectives)
    missing = _do_jobs(workshop, share, say=say, finish=finish)
    if missing and accelerator.is_main_process:
        say(f"{missing} of the run's models are with other shards: the last of them to finish writes the report")
    if not missing and accelerator.is_main_process and (more := widened(config)):
        say(f"another command has added {', '.join(more)} to this run, and writes its report")
    elif not missing and accelerator.is_main_process:
        _side_files(config, data, bank, encoders)
        finish("side files")
        if not (folder / "environment.json").exists():
            # What earlier calls did is merely loaded in this one; how long training took in all is in train/*.json.
            found = {**environment(accelerator, encoders), "seconds_of_this_call": timings}
            write_json(folder / "environment.json", found)
        report = write_report(folder)
        for line in summary_lines(report.results):
            say(line)
        say(f"report: {folder / 'report.html'} ({time.perf_counter() - started:.0f} s)")
    return folder


def _exclusion_lines(excluded: Mapping[str, Mapping[Any, list[str]]]) -> list[str]:
    """How many images each split was left without, where there are any."""
    return [
        f"{name}: left out " + ", ".join(f"{len(images)} images of {part}" for part, images in parts.items())
        for name, parts in excluded.items()
        if any(parts.values())
    ]


def load_encoders(config: RunConfig, device: str) -> dict[str, Encoder]:
    """The run's encoders. Raises EncoderError."""
    return {alias: load_encoder(f"{alias}={spec}", device=device) for alias, spec in config.encoders.items()}


def _do_jobs(workshop: Workshop, share: Share, *, say: Callable[[str], None], finish: Callable[[str], None]) -> int:
    """This share of the models and cells: first those that need nothing else, then the controls made of them.

    Returns:
        How many models and averages are not there yet, because other shares have them.
    """
    config, agree, first = workshop.config, workshop.processes.agree, workshop.processes.first
    jobs = first_jobs(config, galleries=workshop.galleries)

    def missing() -> int:  # as the first process sees it: others may see a file later
        return agree(sum(not workshop.done(job) for job in jobs))

    for job in share.of(jobs):
        workshop.do(job)
        finish(str(job))
    if config.controls != "full":
        return missing()
    if not share.wait(lambda: missing() == 0):
        lacking = missing()
        if first:
            say(
                f"the trained controls wait for {lacking} models of other shards: run this again when they are finished"
            )
        return lacking
    best = agree(best_single(config, workshop.data) if first else {})
    streams, not_run = control_streams(config, workshop.encoders, dict.fromkeys(best.values()), load=workshop.load)
    if share.index == 0 and first:
        write_json(config.folder / "controls.json", not_run)
        for control, why in not_run.items():
            say(f"control {control} is not run: {why}")
    later = control_jobs(config, best=best, streams=streams)
    own = {f"{alias}={spec}": (alias, spec) for job in later for alias, spec in job.encoders.items()}
    if own:  # by all shares, before any of them is waited for
        workshop.stock({name: workshop.load(*one) for name, one in own.items()}, share=share)
    averages = [
        [j for j in jobs if (j.kind, j.name, j.seed, len(j.of)) == ("retrained", name, seed, 1)]
        for seed in config.seeds
        for name in groups_of(config)
    ]
    for job in share.of(later):
        workshop.do(job)
        finish(str(job))
    for single in share.of(averages):
        workshop.average(single)
        finish(f"{single[0].name}: averaged, seed {single[0].seed}")
    undone = [not workshop.done(job) for job in later] + [not workshop.averaged(single) for single in averages]
    return agree(sum(undone))


def _side_files(
    config: RunConfig, data: Mapping[str, TaskData], bank: FeatureBank, encoders: Mapping[str, Encoder]
) -> None:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    folder = config.folder
    parts = [pq.read_table(folder / "attention" / f"{task}.{seed}.parquet") for task in data for seed in config.seeds]
    write_table(pa.concat_tables(parts), folder / "attention.parquet")
    write_json(folder / "images.json", {n: str(i.splits["test"].image_root.absolute()) for n, i in data.items()})
    if not (folder / "cost.json").exists():
        write_json(folder / "cost.json", {alias: encoder_cost(encoder) for alias, encoder in encoders.items()})
    baselines = folder / "baselines.json"
    there = all((folder / name).exists() for name in ("baselines.json", "examples.parquet", "similarity.json"))
    if there and list(json.loads(baselines.read_text(encoding="utf-8"))) == list(data):
        return  # otherwise tasks were added
    write_json(folder / "similarity.json", similarity(data, bank))
    rows = [(name, part, e) for name, item in data.items() for part in PARTS[1:] for e in item.splits[part].examples]
    write_examples(folder, rows)
    found = {name: item.task.baselines(item.splits["train"], item.splits["test"]) for name, item in data.items()}
    table = {
        name: {"chance": one.chance, "majority": one.majority, "prior": one.prior, "metric": data[name].task.metric}
        for name, one in found.items()
    }
    write_json(baselines, table)


def environment(accelerator: Accelerator, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
    """Versions, device, commit and encoders by their fingerprints: what a reader needs to run this again."""
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
        "encoders": {a: {"name": one.name, "fingerprint": one.fingerprint} for a, one in encoders.items()},
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
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
