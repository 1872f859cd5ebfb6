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
    from encoders.plan import Shard
    from experiments.config import RunConfig
    from experiments.data import TaskData
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
    from encoders.images import Undecodable
    from encoders.memory import USUAL, local_processes
    from encoders.plan import Shard
    from experiments.data import find_data, read_tasks
    from experiments.processes import Processes
    from experiments.share import refuse_one_gpu, use_gpu
    from experiments.stores import fill_stores, sibling_lines
    from experiments.training.launch import PATIENCE, on_cpu

    shard = Shard.parse(args.shard or "1/1")
    size = _batch_size(args.batch_size, shard)
    use_gpu(config.device)
    state = PartialState(cpu=on_cpu(config.device), timeout=PATIENCE)
    refuse_one_gpu(config.device, processes=local_processes())
    device = config.device or str(state.device)
    encoders = {alias: load_encoder(f"{alias}={spec}", device=device) for alias, spec in config.encoders.items()}
    with state.main_process_first():  # the others find the embedded world in place
        data = read_tasks(config, find_data(config))
    if args.estimate:
        if state.is_main_process:
            _estimate(config, data, encoders, processes=shard.count * state.num_processes)
        return
    processes = Processes(state.process_index, state.num_processes)
    if size is None and shard.count > 1:  # the other machines cannot be asked
        size = USUAL
    bank = fill_stores(
        config,
        data,
        encoders,
        shard=shard.within(state.process_index, state.num_processes),
        batch_size=size or partial(_agreed, processes=processes, device=device),
        progress="bar" if state.is_local_main_process else "none",
        wait=state.wait_for_everyone,
        together=state.num_processes,
    )
    if state.is_main_process:
        reasons = Undecodable(Path(config.cache) / "features").reasons().values()
        for line in [*bank.summary(), *(f"left out: {why}" for why in reasons), *sibling_lines(config, encoders)]:
            print(line)


def _batch_size(asked: str, shard: Shard) -> int | None:
    """The images a pass that were asked for; None where what fits is to be found. Raises ConfigError."""
    from encoders.plan import PART_IMAGES
    from experiments.errors import ConfigError

    if asked == "auto":
        return None
    if not re.fullmatch("[1-9][0-9]{0,5}", asked):
        raise ConfigError(f"--batch-size {asked} must be auto, or a positive whole number")
    size = int(asked)
    if shard.count > 1 and PART_IMAGES % size:
        nearest = min(1 << (size.bit_length() - 1), PART_IMAGES)
        raise ConfigError(
            f"--batch-size {size} with --shard must divide {PART_IMAGES}, so that all machines cut the images alike;"
            f" nearest: {nearest}"
        )
    return size


def _estimate(
    config: RunConfig, data: Mapping[str, TaskData], encoders: Mapping[str, Encoder], *, processes: int
) -> None:
    from encoders.memory import local_processes
    from experiments.data import PARTS
    from experiments.estimate import estimate

    images = list(dict.fromkeys(path for task in data.values() for part in PARTS for path in task.paths(part).values()))
    root = Path(config.cache) / "features"
    for line in estimate(encoders, images, root=root, processes=processes, here=local_processes()):
        print(line)


def _agreed(encoders: Sequence[Encoder], *, processes: Processes, device: str) -> int:
    """What fits, told as the flag with which the same command would give the same bytes elsewhere."""
    from experiments.stores import agreed_batch

    size = agreed_batch(encoders, processes=processes, device=device)
    if processes.first and encoders:
        print(f"--batch-size {size}", file=sys.stderr)
    return size


if __name__ == "__main__":
    raise SystemExit(main())
