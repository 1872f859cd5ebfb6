"""Presets: functions that return a whole configuration.

Handed a preset's name; hands on a `RunConfig`, of which flags and `--set` change single values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from experiments.config import TASKS, EvaluateConfig, RunConfig
from experiments.errors import ConfigError, near
from experiments.training.recipes import recipe_values
from experiments.training.settings import TrainConfig
from fusion.config import FusionConfig

DEMO_ENCODERS = {name: f"demo:{name}" for name in ("vit", "clip", "dino", "convnext")}


def demo() -> RunConfig:
    """The embedded world, four shipped encoders, one trunk for six tasks; on 2 cores 8 to 20 minutes, by processor."""
    train = TrainConfig(
        joint=True,
        steps=2400,
        blind_steps=400,
        batch_size=64,
        groups=1,
        ve_dropout=0.35,
        lr=3e-4,
        lr_scale={"adapters": 10.0, "heads": 10.0},
        precision="auto",
        validate_examples=400,
        weights={"flickr30k": 0.5, "coco": 0.5, "vqa": 1.2, "gqa": 1.2, "snli_ve": 0.8, "hateful_memes": 0.8},
    )
    options: dict[str, dict[str, Any]] = {
        "flickr30k": {"negatives": "alternate", "match_share": 0.25},
        "coco": {"negatives": "alternate", "match_share": 0.25},
        "vqa": {"min_count": 5},
    }
    evaluate = EvaluateConfig(rerank=8, precision="auto")
    fusion = FusionConfig(pad_text=8)
    return RunConfig("demo", dict(DEMO_ENCODERS), task_options=options, fusion=fusion, train=train, evaluate=evaluate)


def demo_full() -> RunConfig:
    """The demo with everything that a claim of complementarity needs: three seeds, all controls, other removals."""
    made = demo()
    evaluate = replace(made.evaluate, removals=("zero", "mean", "permuted"))
    return replace(made, preset="demo-full", seeds=(0, 1, 2), controls="full", evaluate=evaluate)


def tiny() -> RunConfig:
    """The shipped small trunk, a model per task: for trying one's own encoders on a laptop."""
    return RunConfig("tiny", dict(DEMO_ENCODERS), fusion=FusionConfig(dropout=0.1, pad_text=8))


def base() -> RunConfig:
    """BERT-base's trunk, a model per task with the values of its published recipe; name four encoders of your own."""
    fusion = FusionConfig(width=768, layers=12, heads=12, dropout=0.1, text="google-bert/bert-base-uncased")
    return RunConfig("base", {}, fusion=fusion, train=_published(part=64), evaluate=EvaluateConfig(precision="auto"))


def large() -> RunConfig:
    """BERT-large's trunk, 24 layers of width 1024; otherwise as `base`."""
    fusion = FusionConfig(width=1024, layers=24, heads=16, dropout=0.1, text="google-bert/bert-large-uncased")
    return RunConfig("large", {}, fusion=fusion, train=_published(part=32), evaluate=EvaluateConfig(precision="auto"))


def _published(*, part: int) -> TrainConfig:
    per_task = {task: recipe_values(task, part=part) for task in TASKS}
    # What several tasks share, or a task of one's own: between the rates of the recipes.
    return TrainConfig(
        precision="auto", groups=4, per_task=per_task, keep="best", lr=2e-5, lr_scale=FRESH, epochs=10.0, warmup=0.1
    )


FRESH = {"heads": 10.0, "adapters": 10.0}
"""What starts at random learns faster than a trained trunk."""


def with_recipes(config: RunConfig) -> RunConfig:
    """The recipe of a built-in task also for one that is that task under another name, such as `mine=vqa`."""
    train = config.train
    known = train.per_task
    again = {name: known[spec] for name, spec in config.own_tasks.items() if spec in known and name not in known}
    return replace(config, train=replace(train, per_task={**known, **again})) if again else config


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "demo-full": demo_full,
    "tiny": tiny,
    "base": base,
    "large": large,
}


def preset(name: str) -> RunConfig:
    """The preset of this name. Raises ConfigError for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; {near(name, PRESETS)}")
    return PRESETS[name]()
