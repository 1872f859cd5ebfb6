"""`python -m experiments.compare_operators`: the same run with every fusion operator, and a table of all of them.

Takes the flags of `experiments.combine`; without any it is the embedded default without controls. Each operator is an
ordinary run, named `operators-NAME`, so that what is finished is never done twice and the same command goes on after an
interruption. The table is made of the run folders alone. `--shard i/n` and processes of a launch take every n-th
operator each, once the features are there; the last to finish writes the table.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.combine import configure
from experiments.combine import parser as combine_parser
from experiments.command_line import exit_status

if TYPE_CHECKING:
    from experiments.config import RunConfig

NAMED = ("preset", "config", "tasks", "encoders", "seeds", "coalitions", "text", "settings")
"""Flags that say what is compared; the page repeats them. Others say where things are."""


def parser() -> argparse.ArgumentParser:
    """The flags of a run, and those of the comparison."""
    made = combine_parser()
    made.prog, made.description = "python -m experiments.compare_operators", __doc__
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--operators", nargs="+", action="extend", metavar="NAME", help="which of them (default: all)")
    made.add_argument("--out", type=Path, help="where the table is written (default: operators.md beside the runs)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 for an error that the user can mend, told in one line."""
    args = parser().parse_args(argv)
    return exit_status(lambda: _compare(args), kept="finished cells")


def _compare(args: argparse.Namespace) -> None:
    from experiments.combine import run, say_estimate
    from experiments.share import Share, own_share, use_device

    configs = configure_each(args)
    share, local_rank = own_share(args.shard, ddp=args.ddp, environment=os.environ)
    use_device(local_rank)
    for config in share.of(list(configs.values())):
        if args.estimate:
            print(f"run {config.name}")
            say_estimate(config, Share())
        else:
            run(config)
    if not args.estimate:
        write_page({operator: config.folder for operator, config in configs.items()}, args)


def write_page(folders: Mapping[str, Path], args: argparse.Namespace) -> None:
    """Writes and prints the table, if all runs are finished. Raises RunFolderError."""
    from analysis.results import write_atomically
    from experiments.operator_table import page

    missing = [operator for operator, folder in folders.items() if not (folder / "results.json").exists()]
    if missing:
        print(f"{', '.join(missing)}: not finished yet; whoever finishes the last operator writes the table")
        return
    text, table = page(folders, command=command(args))
    out = args.out or next(iter(folders.values())).parent / "operators.md"
    write_atomically(out, text)
    print(table)
    print(out)


def configure_each(args: argparse.Namespace) -> dict[str, RunConfig]:
    """A run for each operator, all checked before the first is started.

    Raises:
        ConfigError: an operator does not exist, or a setting cannot be honoured.
    """
    from experiments.errors import ConfigError, near
    from fusion import OPERATORS

    if args.fusion is not None:
        raise ConfigError(f"--fusion {args.fusion} is of a single run; a comparison takes --operators for some of them")
    chosen = dict.fromkeys(args.operators or OPERATORS)
    for name in chosen:
        if name not in OPERATORS:
            raise ConfigError(f"--operators names {name!r}; {near(name, OPERATORS)}")
    quick = {"controls": args.controls or "none", "rerank": args.rerank or 1}  # neither is in the table
    named = {name: {"fusion": name, "run": f"{args.run or 'operators'}-{name}"} for name in chosen}
    return {name: configure(argparse.Namespace(**(vars(args) | quick | own))) for name, own in named.items()}


def command(args: argparse.Namespace) -> str:
    """The command that makes the same table, wherever its files are."""
    words = ["python", "-m", "experiments.compare_operators"]
    for name in (*NAMED, "operators"):
        value = getattr(args, name)
        if value:
            flag = "--set" if name == "settings" else f"--{name}"
            words += [flag, *(map(str, value) if not isinstance(value, str) else [value])]
    return shlex.join(words)


if __name__ == "__main__":
    raise SystemExit(main())
