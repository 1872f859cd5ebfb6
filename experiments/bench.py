"""`python -m experiments.bench PART`: performance as ratios to a baseline that is measured in the same run.

Only ratios carry over from one machine to another; each line says what was divided by what. Rounds alternate between
both sides, and the middle round counts, so that other work on the machine hits both alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from experiments.command_line import Parser, exit_status

PARTS: dict[str, str] = {
    "analysis": "experiments.bench_analysis:run",
    "extract": "experiments.bench_extract:run",
    "store": "experiments.bench_store:run",
    "tasks": "experiments.bench_tasks:run",
    "train": "experiments.bench_train:run",
}


class Figure(NamedTuple):
    """One line of the table.

    Attributes:
        what: what was measured, and against what.
        value: the ratio, or the number.
        unit: of a number that is no ratio.
        wanted: the least (or, with a unit, the most) that is promised; None where nothing is.
        most: the most that is promised of a ratio.
    """

    what: str
    value: float
    unit: str = ""
    wanted: float | None = None
    most: float | None = None

    def line(self) -> str:
        promised = "" if self.wanted is None else f"  ({'at most' if self.unit else 'at least'} {self.wanted:g})"
        if self.most is not None:
            promised = f"  (at most {self.most:g})"
        return f"  {self.value:10.3f} {self.unit or '×':5} {self.what}{promised}"


OWN_FLAGS = {"plot": "train", "encoders": "extract"}
"""The part that a flag is for, where it is not for all."""


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 for an error that the user can mend."""
    parser = Parser(prog="python -m experiments.bench", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS), metavar="PART", help=", ".join(sorted(PARTS)))
    parser.add_argument("--images", type=int, help="images worked on (each part has its own default)")
    parser.add_argument("--rounds", type=int, default=5, help="times both sides are measured (default: 5)")
    parser.add_argument("--folder", type=Path, help="where files are written and removed again (default: temporary)")
    parser.add_argument("--plot", type=Path, help="where `train` draws its step times (.svg, .png or .pdf)")
    parser.add_argument(
        "--encoders",
        nargs="+",
        metavar="ALIAS=SPEC",
        help="what `extract` extracts (default: ViT-S/16 with random weights, in fp32 and, where multiplied, bf16)",
    )
    args = parser.parse_args(argv)
    own = {flag: value for flag in OWN_FLAGS if (value := getattr(args, flag)) is not None}
    for flag in own:
        if args.part != OWN_FLAGS[flag]:
            print(f"error: --{flag} is for the part {OWN_FLAGS[flag]}, not {args.part}", file=sys.stderr)
            return 1
    if args.rounds < 1 or (args.images is not None and args.images < 64):
        print("error: --rounds must be at least 1, --images at least 64", file=sys.stderr)
        return 1
    return exit_status(lambda: _measure(args, own))


def _measure(args: argparse.Namespace, own: Mapping[str, object]) -> None:
    module, _, name = PARTS[args.part].partition(":")
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-") as folder:
        measure: Callable[..., list[Figure]] = getattr(import_module(module), name)
        figures = measure(Path(folder), images=args.images, rounds=args.rounds, **own)
    print(f"bench {args.part}")
    for figure in figures:
        print(figure.line())


if __name__ == "__main__":
    raise SystemExit(main())
