"""`python -m experiments.report RUN…`: computes and renders finished runs again, from their stored answers alone.

Several runs are also set side by side: a leaderboard, which compares all others with the first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, such as runs/demo-seed0")
    made.add_argument(
        "--images", nargs="+", metavar="TASK=FOLDER", default=[], help="where a task's images lie, if they were moved"
    )
    made.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of the leaderboard (default: leaderboard, beside the first run)"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 for an error that the user can mend, told in one line."""
    args = parser().parse_args(argv)
    from analysis.errors import RunFolderError
    from analysis.leaderboard_page import write_leaderboard
    from analysis.report import write_report
    from analysis.terminal import summary_lines

    images = {}
    for item in args.images:
        task, equals, folder = item.partition("=")
        if not equals:
            print(f"error: --images {item!r} is not TASK=FOLDER", file=sys.stderr)
            return 1
        images[task] = Path(folder)
    try:
        reports = []
        for folder in args.runs:
            report = write_report(folder, images=images)
            reports.append((folder, report))
            print("\n".join([*summary_lines(report.results), str(report.html), ""]))
        if len(reports) > 1:
            print(write_leaderboard(reports, args.out or args.runs[0].resolve().parent / "leaderboard"))
    except (RunFolderError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
