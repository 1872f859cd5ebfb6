"""`python -m experiments.extract`: fills the feature store for a run's encoders and datasets, without training.

`--estimate` says first what that takes. Several processes divide the work: `accelerate launch --multi_gpu --module
experiments.extract` on one machine, `--shard i/n` on several machines that share a folder, or both. What is complete is
never computed again, so the same command goes on where a killed one stopped.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.combine import configure
from experiments.combine import parser as combine_parser
from experiments.command_line import Parser, exit_status

if TYPE_CHECKING:
    from encoders.base import Encoder
    from experiments.config import RunConfig
    from experiments.processes import Processes


def parser() -> Parser:
    """The flags of a run, and those of the extraction."""
    made = combine_parser()
    made.prog, made.description = "python -m experiments.extract", __doc__
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument(
        "--batch-size",
        metavar="N",
        default="auto",
        help="images a forward pass; auto (default): what fits the memory, at most 64 on a CPU; with --shard 64",
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 for an error that the user can mend, told in one line."""
    args = parser().parse_args(argv)
    from experiments.share import LEFT_ALONE, left_alone

    if left_alone(os.environ):
        print(LEFT_ALONE, file=sys.stderr)
    return exit_status(lambda: _extract(args, configure(args)), kept="complete parts")


def _extract(args: argparse.Namespace, config: RunConfig) -> None:
    from accelerate import PartialState  # type: ignore[import-untyped]

    from encoders import load_encoder
    from encoders.memory import USUAL
    from encoders.plan import Shard
    from experiments.data import PARTS, fill_stores, find_data, read_tasks
    from experiments.errors import ConfigError
    from experiments.processes import Processes
    from experiments.training.launch import PATIENCE, on_cpu

    shard = Shard.parse(args.shard or "1/1")
    if args.batch_size != "auto" and not re.fullmatch("[1-9][0-9]{0,5}", args.batch_size):
        raise ConfigError(f"--batch-size {args.batch_size} must be auto, or a positive whole number")
    state = PartialState(cpu=on_cpu(config.device), timeout=PATIENCE)
    device = config.device or str(state.device)
    encoders = {alias: load_encoder(f"{alias}={spec}", device=device) for alias, spec in config.encoders.items()}
    with state.main_process_first():  # the others find the embedded world in place
        data = read_tasks(config, find_data(config))
    if args.estimate:
        from experiments.estimate import estimate

        paths = [path for task in data.values() for part in PARTS for path in task.paths(part).values()]
        if state.is_main_process:
            images, root = list(dict.fromkeys(paths)), Path(config.cache) / "features"
            for line in estimate(encoders, images, root=root, processes=shard.count * state.num_processes):
                print(line)
        return
    processes = Processes(state.process_index, state.num_processes)
    size = str(USUAL) if args.batch_size == "auto" and shard.count > 1 else args.batch_size
    bank = fill_stores(
        config,
        data,
        encoders,
        shard=shard.within(state.process_index, state.num_processes),
        batch_size=int(size) if size != "auto" else partial(_agreed, processes=processes, device=device),
        progress="bar" if state.is_local_main_process else "none",
        wait=state.wait_for_everyone,
    )
    if state.is_main_process:
        for line in [*bank.summary(), *_notes(config, encoders)]:
            print(line)


def _agreed(encoders: Sequence[Encoder], *, processes: Processes, device: str) -> int:
    """The batch that fits the first process's memory: all must cut the images alike."""
    from encoders.memory import fitting_batch

    size = processes.agree(fitting_batch(encoders, device=device) if processes.first else 0)
    if processes.first and encoders:
        print(f"--batch-size {size}", file=sys.stderr)
    return size


def _notes(config: RunConfig, encoders: Mapping[str, Encoder]) -> list[str]:
    """What is on record as undecodable, and which stores hold the same encoder under other settings or weights."""
    from encoders.images import Undecodable
    from encoders.store import FeatureStore

    root = Path(config.cache) / "features"
    lines = [f"left out: {reason}" for reason in Undecodable(root).reasons().values()]
    named = {alias: FeatureStore(root, encoder) for alias, encoder in encoders.items()}
    own = {store.folder.name for store in named.values()}
    for alias, store in named.items():
        for folder, differences in store.siblings():
            if folder.name not in own:
                lines.append(f"note: {folder} holds {alias} as it was with other {differences}; it is not used")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
