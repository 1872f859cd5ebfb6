"""`python -m experiments.world --out DIR`: writes the six demo datasets in the official formats."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per dataset")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the default number of images")
    parser.add_argument("--workers", type=int, default=2, help="rendering processes")
    args = parser.parse_args(argv)
    from experiments.world.build import WorldError, build_world

    if args.seed < 0 or args.scale <= 0:
        print(f"error: --seed {args.seed} and --scale {args.scale} must be positive", file=sys.stderr)
        return 2
    try:
        print(build_world(args.out, seed=args.seed, scale=args.scale, workers=args.workers))
    except (WorldError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
