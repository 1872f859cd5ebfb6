"""`python -m experiments.compare_operators`: the same run with every fusion operator, and a table of all of them.

Takes the flags of `experiments.combine`; without any it is the embedded default without controls. Each operator is an
ordinary run, named `operators-NAME`, so that what is finished is never done twice and the same command goes on after an
interruption. The table is made of the run folders alone.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.combine import configure
from experiments.combine import parser as combine_parser

if TYPE_CHECKING:
    from experiments.config import RunConfig

NAMED = ("preset", "tasks", "encoders", "seeds", "text", "settings")
"""Flags that say what is compared; the page repeats them. Others say where things are."""


def parser() -> argparse.ArgumentParser:
    """The flags of a run, and those of the comparison."""
    made = combine_parser()
    made.prog, made.description = "python -m experiments.compare_operators", __doc__
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--operators", nargs="+", metavar="NAME", help="which of them (default: all)")
    made.add_argument("--out", type=Path, default=Path("docs/operators.md"), help="where the table is written")
    return made


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 for an error that the user can mend, told in one line."""
    args = parser().parse_args(argv)
    from experiments.combine import run, say_estimate
    from experiments.errors import user_errors
    from experiments.operator_table import page
    from experiments.share import Share

    try:
        configs = configure_each(args)
        if args.estimate:
            for config in configs.values():
                print(f"run {config.name}")
                say_estimate(config, Share())
            return 0
        folders = {operator: run(config) for operator, config in configs.items()}
        text, table = page(folders, command=command(args))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    except user_errors() as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept, the same command goes on from there", file=sys.stderr)
        return 130
    print(table)
    print(args.out)
    return 0


def configure_each(args: argparse.Namespace) -> dict[str, RunConfig]:
    """A run for each operator, all checked before the first is started.

    Raises:
        ConfigError: an operator does not exist, or a flag is not of a comparison.
    """
    from experiments.errors import ConfigError, near
    from fusion import OPERATORS

    for flag, value, instead in (("--fusion", args.fusion, "--operators"), ("--shard", args.shard, "--tasks")):
        if value is not None:
            raise ConfigError(f"{flag} {value} is of a single run; a comparison takes {instead} for less than all")
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
