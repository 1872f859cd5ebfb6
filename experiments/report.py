"""`python -m experiments.report RUN…`: computes and renders finished runs again, from their stored answers alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, such as runs/demo-seed0")
    args = parser.parse_args(argv)
    from analysis.errors import RunFolderError
    from analysis.report import write_report
    from analysis.terminal import summary_lines

    for folder in args.runs:
        try:
            report = write_report(folder)
        except (RunFolderError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print("\n".join([*summary_lines(report.results), str(report.html)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
