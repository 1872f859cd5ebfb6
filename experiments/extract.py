"""`python -m experiments.extract`: fills the feature store for a run's encoders and datasets, without training."""

from __future__ import annotations

import sys

from experiments.combine import configure
from experiments.combine import parser as combine_parser


def main(argv: list[str] | None = None) -> int:
    parser = combine_parser()
    parser.prog, parser.description = "python -m experiments.extract", __doc__
    args = parser.parse_args(argv)
    from experiments.errors import user_errors

    try:
        config = configure(args)
        from encoders import load_encoder
        from experiments.data import fill_stores, find_data, read_tasks

        device = config.device or "cpu"
        encoders = {alias: load_encoder(f"{alias}={spec}", device=device) for alias, spec in config.encoders.items()}
        bank = fill_stores(config, read_tasks(config, find_data(config)), encoders)
    except user_errors() as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for line in bank.summary():
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
