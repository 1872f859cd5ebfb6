"""`python -m experiments.combine`: features, training, all coalitions, controls and the complementarity report.

Without arguments it runs the embedded default: a rendered world, four shipped encoders, six tasks. A cell that is
finished is never done twice. From Python: `experiments.combine.run(config)`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line import Parser, exit_status

if TYPE_CHECKING:
    from experiments.config import RunConfig
    from experiments.share import Share


def parser() -> Parser:
    """The command's flags; none of them needs torch."""
    made = Parser(prog="python -m experiments.combine", description=__doc__)
    made.add_argument("--preset", default=None, help="demo (default), demo-full, tiny, base or large")
    made.add_argument("--config", type=Path, help="a JSON file such as a run's config.json, instead of a preset")
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}  # a flag that is given twice adds to itself
    made.add_argument(
        "--set", **several, default=[], metavar="KEY=VALUE", dest="settings", help="such as train.lr=1e-4"
    )
    made.add_argument("--tasks", **several, help="flickr30k coco vqa gqa snli_ve hateful_memes, NAME=SPEC or FILE.py")
    made.add_argument(
        "--encoders", **several, metavar="ALIAS=SPEC", help="such as 'clip=open_clip:ViT-B-32/openai?pool=7x7'"
    )
    made.add_argument("--data", help="folder with one folder per dataset; default: the embedded world")
    made.add_argument("--images", **several, metavar="TASK=FOLDER", default=[], help="where a task's images lie")
    made.add_argument("--exclude", metavar="FILE", help="images to leave out, as tasks.check --exclude writes them")
    made.add_argument(
        "--exclude-undecodable", action="store_true", help="leave out images that do not decode, and record them"
    )
    made.add_argument("--rerank", type=int, metavar="N", help="nearest items of each query that matching re-orders")
    made.add_argument("--fusion", help="concat, coattention, channel, resampler, gated, window or late")
    made.add_argument("--text", help="text trunk: demo, scratch, or a Hugging Face text encoder, by name or folder")
    made.add_argument("--run", help="name of the run's folder")
    made.add_argument("--runs", help="folder of all runs (default: runs)")
    made.add_argument("--cache", help="folder of features and the embedded world (default: cache)")
    made.add_argument("--seeds", **several, type=int, help="training seeds")
    made.add_argument(
        "--coalitions",
        choices=("masked", "retrained", "both"),
        help="masked (default): one model answers for all; retrained: a model of each; both: these beside that one",
    )
    made.add_argument(
        "--controls",
        choices=("none", "cheap", "full"),
        help="against mere ensemble effects: cheap (default) are blind and shuffled; full adds trained ones",
    )
    made.add_argument("--shard", metavar="i/n", help="train and answer this share of the run's models, such as 3/16")
    made.add_argument(
        "--ddp", action="store_true", help="all processes of a launch train each model together, not one each"
    )
    made.add_argument(
        "--estimate", action="store_true", help="say what disk, passes and hours it takes, and start nothing"
    )
    made.add_argument("--device", help="cpu, cuda or cuda:0 (default: what accelerate finds)")
    return made


def configure(args: argparse.Namespace) -> RunConfig:
    """The configuration that the flags ask for. Raises ConfigError, EncoderError."""
    from dataclasses import replace

    from encoders.spec import parse_specs
    from experiments.checks import check
    from experiments.config import TASKS, override, read_config, with_values
    from experiments.errors import ConfigError, near
    from experiments.presets import preset, with_recipes
    from tasks import is_own_task, load_task

    if args.config is not None and args.preset is not None:
        raise ConfigError(f"--config {args.config} and --preset {args.preset} exclude each other: give one")
    config = read_config(args.config) if args.config else preset(args.preset or "demo")
    if args.encoders:
        specs = parse_specs(args.encoders)
        config = replace(config, encoders={spec.alias: str(spec).removeprefix(f"{spec.alias}=") for spec in specs})
    images = dict(config.images)
    for item in args.images:
        task, equals, folder = item.partition("=")
        if not equals:
            raise ConfigError(f"--images {item!r} is not TASK=FOLDER")
        images[task] = folder
    named: dict[str, str] = {}
    for task in args.tasks or ():
        if task not in TASKS and not is_own_task(task):
            raise ConfigError(f"unknown task {task!r}; {near(task, TASKS)}")
        named[task if task in TASKS else load_task(task).name] = task
    own = {name: spec.partition("=")[2] or spec for name, spec in named.items() if name != spec}
    fusion = {key: value for key, value in (("operator", args.fusion), ("text", args.text)) if value is not None}
    config = replace(config, images=images, fusion=replace(config.fusion, **fusion))
    config = with_values(
        config,
        tasks=tuple(named) or None,
        own_tasks=own or None,
        data=args.data,
        exclude=args.exclude,
        undecodable="exclude" if args.exclude_undecodable else None,
        evaluate=None if args.rerank is None else replace(config.evaluate, rerank=args.rerank),
        run=args.run,
        runs=args.runs,
        cache=args.cache,
        seeds=tuple(args.seeds) if args.seeds else None,
        coalitions=args.coalitions,
        controls=args.controls,
        device=args.device,
    )
    return check(with_recipes(override(config, args.settings)))


def run(config: RunConfig, *, share: Share | None = None, say: Callable[[str], None] = print) -> Path:
    """Runs everything that is not there yet, or a share of it, and writes the report when all is there.

    Returns:
        The run folder.
    """
    from experiments.pipeline import run_pipeline
    from experiments.share import Share

    return run_pipeline(config, share=share or Share(), say=say)


def say_estimate(config: RunConfig, share: Share, *, say: Callable[[str], None] = print) -> None:
    """Says what a run will take if as many processes share it; one of those that were launched together does."""
    from experiments.forecast import forecast_lines

    if share.index == 0 or not share.patient:
        for line in forecast_lines(config, processes=share.count):
            say(line)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 for an error that the user can mend, told in one line."""
    args = parser().parse_args(argv)
    return exit_status(lambda: _combine(args), kept="finished cells")


def _combine(args: argparse.Namespace) -> None:
    from experiments.share import LEFT_ALONE, left_alone, own_share, use_device

    if left_alone(os.environ):
        print(LEFT_ALONE, file=sys.stderr)
    config = configure(args)
    share, local_rank = own_share(args.shard, ddp=args.ddp and not args.estimate, environment=os.environ)
    use_device(local_rank)
    if args.estimate:
        say_estimate(config, share)
    else:
        run(config, share=share)


if __name__ == "__main__":
    raise SystemExit(main())
