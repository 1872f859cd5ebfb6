"""`python -m experiments.report RUN…`: computes and renders finished runs again, from their stored answers alone.

Several runs are also set side by side: a leaderboard, which compares all others with the first.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, such as runs/demo-seed0")
    made.add_argument(
        "--images", nargs="+", metavar="TASK=FOLDER", default=[], help="where a task's images lie, if they were moved"
    )
    made.add_argument("--no-images", action="store_true", help="embed no picture, as for a page to be shared")
    made.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of the leaderboard (default: leaderboard, beside the first run)"
    )
    return made


def image_folders_of(args: argparse.Namespace) -> dict[str, Path]:
    """By task, the folders that the flags name for its images; with `--no-images` ones that hold none.

    Raises:
        ConfigError: a flag is no TASK=FOLDER, or its task is in none of the runs.
        RunFolderError: a folder is not that of a finished run.
    """
    from analysis.run_files import image_folders, read_run_files
    from experiments.errors import ConfigError, near

    if args.images and args.no_images:
        raise ConfigError(f"--images {args.images[0]} and --no-images exclude each other: give one")
    if args.no_images:
        return {task: Path(os.devnull) for run in args.runs for task in image_folders(run)}
    named: dict[str, Path] = {}
    for item in args.images:
        task, equals, folder = item.partition("=")
        if not equals:
            raise ConfigError(f"--images {item!r} is not TASK=FOLDER")
        named[task] = Path(folder)
    known = dict.fromkeys(task for run in args.runs for task in read_run_files(run).baselines) if named else {}
    for task in named:
        if task not in known:
            raise ConfigError(f"--images names task {task!r}, which is in none of the runs; {near(task, known)}")
    return named


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 for an error that the user can mend, told in one line."""
    args = parser().parse_args(argv)
    from analysis.errors import RunFolderError
    from analysis.leaderboard_page import write_leaderboard
    from analysis.report import write_report
    from analysis.terminal import summary_lines
    from experiments.errors import ConfigError

    try:
        images = image_folders_of(args)
        reports = []
        for folder in args.runs:
            report = write_report(folder, images=images)
            reports.append((folder, report))
            print("\n".join([*summary_lines(report.results), str(report.html), ""]))
        if len(reports) > 1:
            print(write_leaderboard(reports, args.out or args.runs[0].resolve().parent / "leaderboard"))
    except (ConfigError, RunFolderError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
