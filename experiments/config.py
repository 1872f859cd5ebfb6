"""The settings of a run: presets are functions that return a whole `RunConfig`; flags and `--set` change single values.

Handed a preset's name, files and flags; hands on a frozen configuration that round-trips through JSON exactly,
`None` included. Unknown keys and values of the wrong type are refused by name.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments.errors import ConfigError, near
from experiments.training.recipes import recipe_values
from experiments.training.settings import Precision, TrainConfig, check_train
from fusion.config import FusionConfig

TASKS = ("flickr30k", "coco", "vqa", "gqa", "snli_ve", "hateful_memes")
DEMO_ENCODERS = {name: f"demo:{name}" for name in ("vit", "clip", "dino", "convnext")}


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """How models are evaluated.

    Attributes:
        precision: the trunk's; attention is always read in float32.
        limit: official records a split; None for all.
        rerank: nearest items of each query that matching re-orders.
        removals: other ways of making encoders absent, to see how much depends on it, beside that of training
            (`train.fill`): their tokens leave, or zeros, their mean or the features of another image come instead.
    """

    batch_size: int = 256
    precision: Precision = "no"
    limit: int | None = None
    rerank: int = 16
    attention_examples: int = 256
    removals: tuple[Literal["drop", "zero", "mean", "permuted"], ...] = ()


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole run.

    Attributes:
        encoders: specs by alias, in the run's order.
        own_tasks: which kind or file is behind a name in `tasks` that is not built in.
        task_options: options of single tasks, such as {"vqa": {"min_count": 9, "vocabulary_file": FILE}}.
        data: folder with one folder per dataset; None for the embedded world of `world_scale` and `world_seed`.
        images: where a task's images lie, where that is not beside its annotations.
        exclude: a list of images to leave out, as `tasks.check --exclude` writes it.
        undecodable: refuse images that do not decode, or leave them out with their examples and record them.
        coalitions: masked models answer for all coalitions; "both" trains a model of each coalition beside them,
            "retrained" in their place.
        controls: against mere ensemble effects: "cheap" are blind and shuffled, "full" adds duplicate, seeds, matched
            and averaged ones (`analysis.controls`).
        control_checkpoints: by alias, specs of the same encoder trained with other seeds, for the control "seeds".
        run: name of the run's folder in `runs`; None for preset and seeds.
        cache: folder of features and of the embedded world.
    """

    preset: str
    encoders: dict[str, str]
    tasks: tuple[str, ...] = TASKS
    own_tasks: dict[str, str] = field(default_factory=dict)
    task_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    data: str | None = None
    images: dict[str, str] = field(default_factory=dict)
    exclude: str | None = None
    undecodable: Literal["refuse", "exclude"] = "refuse"
    coalitions: Literal["masked", "both", "retrained"] = "masked"
    controls: Literal["none", "cheap", "full"] = "cheap"
    control_checkpoints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    world_seed: int = 0
    world_scale: float = 1.0
    run: str | None = None
    runs: str = "runs"
    cache: str = "cache"
    device: str | None = None
    fusion: FusionConfig = field(default_factory=FusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def name(self) -> str:
        """The run's name: as given, else preset and seeds."""
        return self.run or f"{self.preset}-seed{'-'.join(map(str, self.seeds))}"

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.runs) / self.name

    def train_of(self, *tasks: str) -> TrainConfig:
        """The training settings of a model of these tasks: its task's own, where it has one only."""
        changes = self.train.per_task.get(tasks[0], {}) if len(tasks) == 1 and not self.train.joint else {}
        return _changed(self.train, changes, tasks[0]) if changes else self.train

    def train_of_tasks(self) -> dict[str, TrainConfig]:
        """The settings of tasks that have some of their own, by the name they have in messages."""
        return {f"train.per_task.{task}": self.train_of(task) for task in self.train.per_task}

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` gives an equal configuration back."""
        checkpoints = {alias: list(specs) for alias, specs in self.control_checkpoints.items()}
        lists = {"tasks": list(self.tasks), "seeds": list(self.seeds), "control_checkpoints": checkpoints}
        return {**asdict(self), **lists}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Raises ConfigError for an unknown key or a value of the wrong type."""
        config = _build(cls, values, where="")
        assert isinstance(config, cls)
        return config


def demo() -> RunConfig:
    """The embedded world, four shipped encoders, one trunk for six tasks; about eight minutes on 2 cores."""
    train = TrainConfig(
        joint=True,
        steps=2400,
        blind_steps=400,
        batch_size=64,
        groups=1,
        ve_dropout=0.35,
        lr=3e-4,
        lr_scale={"adapters": 10.0, "heads": 10.0},
        precision="bf16",
        validate_examples=400,
        weights={"flickr30k": 0.5, "coco": 0.5, "vqa": 1.2, "gqa": 1.2, "snli_ve": 0.8, "hateful_memes": 0.8},
    )
    options: dict[str, dict[str, Any]] = {
        "flickr30k": {"negatives": "alternate", "match_share": 0.25},
        "coco": {"negatives": "alternate", "match_share": 0.25},
        "vqa": {"min_count": 5},
    }
    evaluate = EvaluateConfig(rerank=8, precision="bf16")
    fusion = FusionConfig(pad_text=8)
    return RunConfig("demo", dict(DEMO_ENCODERS), task_options=options, fusion=fusion, train=train, evaluate=evaluate)


def demo_full() -> RunConfig:
    """The demo with everything that a claim of complementarity needs: three seeds, all controls, other removals."""
    made = demo()
    evaluate = replace(made.evaluate, removals=("zero", "mean", "permuted"))
    return replace(made, preset="demo-full", seeds=(0, 1, 2), controls="full", evaluate=evaluate)


def tiny() -> RunConfig:
    """A small trunk from scratch, a model per task: for trying one's own encoders on a laptop."""
    return RunConfig("tiny", dict(DEMO_ENCODERS), fusion=FusionConfig(dropout=0.1, pad_text=8))


def base() -> RunConfig:
    """BERT-base's trunk, a model per task with the values of its published recipe; name four encoders of your own."""
    fusion = FusionConfig(width=768, layers=12, heads=12, dropout=0.1, text="google-bert/bert-base-uncased")
    return RunConfig("base", {}, fusion=fusion, train=_published(part=64), evaluate=EvaluateConfig(precision="bf16"))


def large() -> RunConfig:
    """BERT-large's trunk, 24 layers of width 1024; otherwise as `base`."""
    fusion = FusionConfig(width=1024, layers=24, heads=16, dropout=0.1, text="google-bert/bert-large-uncased")
    return RunConfig("large", {}, fusion=fusion, train=_published(part=32), evaluate=EvaluateConfig(precision="bf16"))


def _published(*, part: int) -> TrainConfig:
    per_task = {task: recipe_values(task, part=part) for task in TASKS}
    # What several tasks share, or a task of one's own: between the rates of the recipes.
    return TrainConfig(
        precision="bf16", groups=4, per_task=per_task, keep="best", lr=2e-5, lr_scale=FRESH, epochs=10.0, warmup=0.1
    )


FRESH = {"heads": 10.0, "adapters": 10.0}
"""What starts at random learns faster than a trained trunk."""


def with_recipes(config: RunConfig) -> RunConfig:
    """The recipe of a built-in task also for one that is that task under another name, such as `mine=vqa`."""
    train = config.train
    known = train.per_task
    again = {name: known[spec] for name, spec in config.own_tasks.items() if spec in known and name not in known}
    return replace(config, train=replace(train, per_task={**known, **again})) if again else config


TABLES = ("weights", "lr_scale", "images", "encoders", "task_options", "per_task", "control_checkpoints")
"""Settings whose keys are free to choose; those of `NESTED` hold tables of free keys again."""
NESTED = ("task_options", "per_task")
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


def read_config(path: Path) -> RunConfig:
    """A configuration file, such as a run's `config.json`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: there is no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path} must hold a JSON object, it holds a {type(values).__name__}")
    return RunConfig.from_dict(values)


def override(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """Applies `KEY=VALUE` settings such as `train.lr=1e-4`; a value is JSON, or else a string."""
    values = config.to_dict()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r} is not KEY=VALUE, such as train.lr=1e-4")
        try:
            value: Any = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *path, last = key.split(".")
        target = values
        for number, step in enumerate(path):
            if any(name in NESTED for name in path[:number]):
                target.setdefault(step, {})
            if not isinstance(target.get(step), dict):
                raise ConfigError(f"--set {key}: unknown setting {step!r}; {near(step, target)}")
            target = target[step]
        if last not in target and not (path and (path[-1] in TABLES or any(name in NESTED for name in path))):
            raise ConfigError(f"--set {key}: unknown setting {last!r}; {near(last, target)}")
        target[last] = value
    return RunConfig.from_dict(values)


def check(config: RunConfig) -> RunConfig:
    """Refuses values that no run can honour. Raises ConfigError."""
    train = config.train
    positive = {
        "evaluate.batch_size": config.evaluate.batch_size,
        "evaluate.rerank": config.evaluate.rerank,
        "world_scale": config.world_scale,
    }
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key}={value} must be positive")
    tables: dict[str, Mapping[str, Any]] = {
        "train.weights": train.weights,
        "train.per_task": train.per_task,
        "task_options": config.task_options,
    }
    for where, table in tables.items():
        for key in table:
            if key not in TASKS and key not in config.tasks:
                known = dict.fromkeys((*TASKS, *config.tasks))
                raise ConfigError(f"{where} names an unknown task {key!r}; {near(key, known)}")
    for key, weight in train.weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"train.weights.{key}={weight} must not be negative")
    if train.joint and config.tasks and not any(train.weights.get(task, 1.0) for task in config.tasks):
        raise ConfigError("train.weights are 0 for all tasks of the run: give one that it trains on a positive weight")
    _check_blind(config)
    for key in config.control_checkpoints:
        if key not in config.encoders:
            raise ConfigError(f"control_checkpoints names an unknown encoder {key!r}; {near(key, config.encoders)}")
    if not config.encoders and config.preset in PRESETS:
        raise ConfigError(f"preset {config.preset!r} has no encoders: name yours with --encoders ALIAS=SPEC …")
    if not config.tasks or not config.seeds or not config.encoders:
        raise ConfigError("a run needs at least one task, one seed and one encoder")
    if config.coalitions == "retrained" and config.evaluate.removals:
        raise ConfigError(
            f"evaluate.removals={list(config.evaluate.removals)} puts something in absent encoders' places, and with"
            " coalitions=retrained no model lacks any; nearest: coalitions=both"
        )
    if config.data is None and config.preset in ("base", "large"):
        raise ConfigError(
            f"preset {config.preset!r} has no data: name the folder of your datasets with --data (nearest that needs"
            " none: --preset tiny, on rendered pictures)"
        )
    if config.device is not None:
        check_device(config.device)
    if len(config.encoders) > 8:
        raise ConfigError(f"{len(config.encoders)} encoders make {2 ** len(config.encoders)} coalitions; at most 8")
    for where, settings in ({"train": train} | config.train_of_tasks()).items():
        check_train(settings, aliases=tuple(config.encoders), layers=config.fusion.layers, where=where)
    return config


def _check_blind(config: RunConfig) -> None:
    """Refuses a joint run whose blind model would train on nothing: retrieval has none. Raises ConfigError."""
    weights, wanted = config.train.weights, config.controls != "none" or config.coalitions == "retrained"
    if not config.train.joint or not wanted or all(weights.get(task, 1.0) for task in config.tasks):
        return
    from tasks import load_task

    own = {task: f"{task}={spec}" for task, spec in config.own_tasks.items()}
    blind = [task for task in config.tasks if load_task(own.get(task, task)).scoring == "answers"]
    if blind and not any(weights.get(task, 1.0) for task in blind):
        without = "" if config.coalitions == "retrained" else ", or set controls=none"
        raise ConfigError(
            f"train.weights are 0 for {', '.join(blind)}, the tasks that the model without images is trained on: give"
            f" one of them a positive weight, leave them out of --tasks{without}"
        )


def check_device(device: str) -> None:
    """Refuses a device that this machine does not have. Raises ConfigError."""
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    known = ["cpu", *(["cuda"] if gpus else []), *gpus]
    if device not in known:
        what = "has no float64, in which losses are summed" if device.startswith("mps") else "is not here"
        raise ConfigError(f"--device {device!r} {what}; this machine has {', '.join(known)}")


OF_THE_RUN = ("joint", "per_task", "weights", "precision", "trackers")
"""Training settings that no single task can change."""


def _changed(train: TrainConfig, changes: Mapping[str, Any], task: str) -> TrainConfig:
    """The settings with those of one task. Raises ConfigError."""
    for key in changes:
        if key in OF_THE_RUN:
            raise ConfigError(f"train.per_task.{task}.{key} cannot differ between tasks: set train.{key}")
    values = {**asdict(train), "per_task": {}, **changes}
    built = _build(TrainConfig, values, where=f"train.per_task.{task}.")
    assert isinstance(built, TrainConfig)
    return built


def _build(kind: type[Any], values: Mapping[str, Any], *, where: str) -> Any:
    known = {item.name: item for item in fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting {where + key!r}; {near(key, known)}")
    built = {key: _convert(hints[key], value, where=f"{where}{key}") for key, value in values.items()}
    try:
        return kind(**built)
    except TypeError as error:
        raise ConfigError(f"incomplete configuration {where or 'file'}: {error}") from error


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    if hint is Any:
        return value
    if is_dataclass(hint):
        if isinstance(value, typing.cast(type[Any], hint)):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}={value!r} must be a group of settings")
        if hint is FusionConfig:
            return FusionConfig.from_dict(value)
        return _build(typing.cast(type[Any], hint), value, where=f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        tables = [kind for kind in kinds if typing.get_origin(kind) is dict]
        return _convert(tables[0] if tables and isinstance(value, Mapping) else kinds[0], value, where=where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}={value!r}; {near(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}={value!r} must be a list")
        return tuple(_convert(arguments[0], item, where=where) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}={value!r} must be a table")
        return {str(key): _convert(arguments[1], item, where=f"{where}.{key}") for key, item in value.items()}
    return _scalar(hint, value, where=where)


def _scalar(hint: Any, value: Any, *, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}={value!r} must be of type {hint.__name__}")
    return value


def with_values(config: RunConfig, **changes: Any) -> RunConfig:
    """The configuration with the changes that are not None."""
    return replace(config, **{key: value for key, value in changes.items() if value is not None})
