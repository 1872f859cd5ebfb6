"""What can be set about training, and which values no run can honour.

Handed values; hands on a frozen `TrainConfig`. Loads no torch, so that flags are refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.errors import ConfigError, near

Precision = Literal["auto", "no", "bf16"]
"""`auto` is bf16 where the device multiplies it; `checks.check` puts in its place what that is."""
MODULES = ("text", "trunk", "adapters", "heads")
"""Parts of a model that can have learning rates of their own."""
FREEZABLE = ("text", "positions", "adapters", "trunk", "operator", "match_head")
LAYERS = re.compile(r"trunk\[(\d*):(\d*)\]")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How models are trained.

    Attributes:
        joint: one trunk with a head per task, or one model per task.
        per_task: values of these settings for the model of single tasks, where it is not `joint`.
        steps: optimizer steps of a model.
        blind_steps: of the text-only one beside it, where it is not trained as long.
        epochs: passes over the training set that make up the steps of a masked model, in place of `steps`.
        batch_size: examples a step, over all processes, split into `groups` that share one coalition each.
        accumulate: parts of a step whose gradients are summed, so that memory need hold one part only. A contrastive
            batch is contrasted part by part.
        bucket: batches whose examples are drawn together and dealt out by length of text, so that little is padded;
            1 deals them out at random.
        ve_dropout: chance of each encoder to be dropped, one for all or one for each alias; `empty` that all are.
        ve_warmup: share of the steps over which both rise from 0.
        fill: what stands in for a dropped encoder: nothing, zeros, or its mean over `fill_images` training images.
        lr: peak learning rate, warmed up over `warmup` of the steps, then as `schedule` says: decayed to 0 in a line or
            a half cosine, or constant.
        lr_scale: factors of `lr` for single `MODULES`: what starts at random can learn faster than a trained trunk
            (METER multiplies by 5 for cross-modal layers and by 50 for heads).
        clip_norm: the gradient's norm is cut to this; None for never.
        freeze: parts of the fusion model that are not trained, by the names of docs/fusion.md.
        ema: decay of an average of the weights, which is then what is validated and kept; None for no average.
        weights: share of the steps that each task gets, where not 1.
        precision: of the forward pass; fp16 scales the loss; auto is bf16 where the device multiplies it, else float32.
        compile: "blocks" compiles the trunk's blocks with torch.compile.
        validate_steps: steps between validations; None for a quarter, a half, 80 % and all of the steps.
        validate_examples: of a task's select split that validations are on, drawn at random by image; None for all of
            it. A gallery is always ranked whole.
        keep: which model is kept: of the last step, or of the best validation (mean of the tasks' official metrics).
        patience: validations without a better one after which training stops; None to never stop early.
        checkpoint_steps: steps between checkpoints, from which a killed run goes on; None for none.
        trials: settings that you tried before you chose these; recorded in every model's budget, and used for nothing.
        log_steps: steps of which the mean loss is recorded; where training ends, that of the steps since.
        trackers: of accelerate, by name; None for tensorboard.
    """

    joint: bool = False
    per_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: int = 20_000
    blind_steps: int | None = None
    epochs: float | None = None
    batch_size: int = 96
    groups: int = 3
    accumulate: int = 1
    bucket: int = 8
    ve_dropout: float | dict[str, float] = 0.5
    empty: float = 0.1
    ve_warmup: float = 0.0
    fill: Literal["drop", "zero", "mean"] = "drop"
    fill_images: int = 1000
    lr: float = 5e-4
    lr_scale: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip_norm: float | None = 1.0
    freeze: tuple[str, ...] = ()
    ema: float | None = None
    weights: dict[str, float] = field(default_factory=dict)
    precision: Literal["auto", "no", "bf16", "fp16"] = "no"
    compile: Literal["no", "blocks"] = "no"
    validate_steps: int | None = None
    validate_examples: int | None = None
    keep: Literal["last", "best"] = "last"
    patience: int | None = None
    checkpoint_steps: int | None = 500
    trials: int = 1
    log_steps: int = 50
    trackers: tuple[str, ...] | None = None


POSITIVE = (
    *("steps", "blind_steps", "epochs", "batch_size", "groups", "accumulate", "bucket", "fill_images", "lr"),
    *("clip_norm", "validate_steps", "validate_examples", "patience", "checkpoint_steps", "trials", "log_steps"),
)
SHARES = ("empty", "warmup", "ve_warmup", "ema")


def check_train(train: TrainConfig, *, aliases: Sequence[str], layers: int, where: str = "train") -> None:
    """Refuses values that no run can honour.

    Args:
        aliases: the run's encoders.
        layers: of the trunk.
        where: name of these settings, for messages.

    Raises:
        ConfigError: names the setting, its value and what would do.
    """
    for key in POSITIVE:
        value = getattr(train, key)
        if value is not None and value <= 0:
            raise ConfigError(f"{where}.{key}={value} must be positive")
    for key in SHARES:
        share = getattr(train, key)
        if share is not None and not 0 <= share <= 1:
            raise ConfigError(f"{where}.{key}={share} must be between 0 and 1")
    if train.weight_decay < 0:
        raise ConfigError(f"{where}.weight_decay={train.weight_decay} must not be negative")
    for key, factor in train.lr_scale.items():
        if key not in MODULES:
            raise ConfigError(f"{where}.lr_scale names an unknown module {key!r}; {near(key, MODULES)}")
        if factor <= 0:
            raise ConfigError(f"{where}.lr_scale.{key}={factor} must be positive")
    if train.batch_size < train.groups * train.accumulate:
        raise ConfigError(
            f"{where}.batch_size={train.batch_size} cannot be split into {where}.groups={train.groups} times"
            f" {where}.accumulate={train.accumulate} parts; nearest: batch_size={train.groups * train.accumulate}"
        )
    if train.patience is not None and train.keep != "best":
        raise ConfigError(f"{where}.patience={train.patience} stops after the best model: set {where}.keep=best too")
    _check_dropout(train.ve_dropout, aliases, where=where)
    for name in train.freeze:
        _check_freezable(name, aliases, layers, where=where)


def _check_dropout(rate: float | Mapping[str, float], aliases: Sequence[str], *, where: str) -> None:
    rates = rate if isinstance(rate, Mapping) else dict.fromkeys(aliases, rate)
    for alias, value in rates.items():
        name = f"{where}.ve_dropout" + (f".{alias}" if isinstance(rate, Mapping) else "")
        if alias not in aliases:
            raise ConfigError(f"{name} is of no encoder of this run; {near(alias, aliases)}")
        if not 0 <= value <= 1:
            raise ConfigError(f"{name}={value} must be between 0 and 1")
    for alias in aliases:
        if alias not in rates:
            named = ", ".join(rates) or "none"
            raise ConfigError(f"{where}.ve_dropout has no rate for encoder {alias!r}; it has {named}")


def _check_freezable(name: str, aliases: Sequence[str], layers: int, *, where: str) -> None:
    """The same names as `fusion.freezing`, which cannot be asked before the model is built."""
    ranged = LAYERS.fullmatch(name)
    if ranged is not None:
        start, stop = int(ranged[1] or 0), int(ranged[2] or layers)
        if not start < stop <= layers:
            raise ConfigError(f"{where}.freeze names {name!r}, but the trunk has layers 0 to {layers - 1}")
        return
    valid = [*FREEZABLE, *(f"adapters.{alias}" for alias in aliases)]
    if name not in valid:
        raise ConfigError(f"{where}.freeze names {name!r}; {near(name, [*valid, f'trunk[:{layers}]'])}")
