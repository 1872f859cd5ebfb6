"""The settings of a run, as data, and how files and `--set` change them.

Handed files and `KEY=VALUE` settings; hands on a frozen configuration that round-trips through JSON exactly, `None`
included. Unknown keys and values of the wrong type are refused by name; what no run can honour is in `checks`.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments.errors import ConfigError, near
from experiments.training.settings import Precision, TrainConfig
from fusion.config import FusionConfig

TASKS = ("flickr30k", "coco", "vqa", "gqa", "snli_ve", "hateful_memes")


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


TABLES = (
    *("weights", "lr_scale", "ve_dropout", "images", "encoders", "own_tasks"),
    *("task_options", "per_task", "control_checkpoints"),
)
"""Settings whose keys are free to choose; those of `NESTED` hold tables of free keys again."""
NESTED = ("task_options", "per_task")
LENGTHS = ("steps", "epochs")
DROPPING = ("train.ve_dropout", "train.empty", "train.ve_warmup", "train.fill")


def read_config(path: Path) -> RunConfig:
    """A configuration file, such as a run's `config.json`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: there is no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object, it holds a {type(values).__name__}")
    return RunConfig.from_dict(values)


def override(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """Applies `KEY=VALUE` settings such as `train.lr=1e-4`; a value is JSON, or else a string.

    A setting of `train` holds for all tasks, those included for which the preset has one of their own, but not for a
    task that another setting names (`train.per_task.vqa.lr=1e-5`).
    """
    values, asked = config.to_dict(), dict(map(_parsed, settings))
    if "train.steps" in asked and asked.get("train.epochs") is not None:
        raise ConfigError("--set train.steps and train.epochs exclude each other: give one")
    for key in sorted(asked, key=lambda key: key.startswith("train.per_task")):
        path = key.split(".")
        if path[0] == "train" and "ve_dropout" in path[:-1]:
            _spread_rates(values, key.partition(".ve_dropout.")[0].split("."))
        _put(values, path, asked[key], key=key)
        if path[0] == "train" and path[1:] and path[1] != "per_task":
            _put_for_all(values["train"]["per_task"], path[1:], asked[key])
        if path[0] == "train" and path[-1] == "steps":
            _find(values, path[:-1], key=key)["epochs"] = None
    made = RunConfig.from_dict(values)
    _refuse_without_effect(made, asked)
    return made


def _spread_rates(values: dict[str, Any], path: Sequence[str]) -> None:
    """Makes one rate of VE-dropout a table, in which that of one encoder can be set."""
    train = values["train"]
    tables = [_find(values, path, key=".".join(path)), *(train["per_task"].values() if len(path) == 1 else ())]
    for table in tables:
        if table is tables[0] or "ve_dropout" in table:
            rate = table.get("ve_dropout", train["ve_dropout"])
            table["ve_dropout"] = {**rate} if isinstance(rate, dict) else dict.fromkeys(values["encoders"], rate)


def _parsed(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set {setting!r} is not KEY=VALUE, such as train.lr=1e-4")
    return key, _json_or_word(text)


def _json_or_word(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _find(values: dict[str, Any], path: Sequence[str], *, key: str) -> dict[str, Any]:
    """The table at a path. Raises ConfigError where there is none."""
    target = values
    for number, step in enumerate(path):
        if any(name in NESTED for name in path[:number]):
            target.setdefault(step, {})
        if step not in target:
            raise ConfigError(f"--set {key}: unknown setting {step!r}; {near(step, target)}")
        if not isinstance(target[step], dict):
            raise ConfigError(f"--set {key}: {'.'.join(path[: number + 1])} is one value, it has no settings in it")
        target = target[step]
    return target


def _put(values: dict[str, Any], path: Sequence[str], value: Any, *, key: str) -> None:
    target, last = _find(values, path[:-1], key=key), path[-1]
    free = len(path) > 1 and (path[-2] in TABLES or any(name in NESTED for name in path[:-1]))
    if last not in target and not free:
        raise ConfigError(f"--set {key}: unknown setting {last!r}; {near(last, target)}")
    target[last] = value


def _put_for_all(per_task: dict[str, dict[str, Any]], path: Sequence[str], value: Any) -> None:
    """Sets what tasks have of their own, too; how long they train is one setting, as steps or as epochs."""
    for own in per_task.values():
        if path[0] in LENGTHS:
            for name in LENGTHS:
                own.pop(name, None)
        elif path[0] in own:
            _put(own, path, value, key=".".join(("train", *path)))


def _refuse_without_effect(config: RunConfig, asked: Collection[str]) -> None:
    """Refuses settings that were asked for and that nothing in the run would read. Raises ConfigError."""
    for key in asked:
        setting = ".".join(key.split(".")[:2])
        if setting == "train.per_task":
            if config.train.joint:
                raise ConfigError(f"--set {key} has no effect on one model of all tasks; nearest: train.joint=false")
            setting = ".".join(("train", *key.split(".")[3:4]))
        if setting == "train.weights" and not config.train.joint:
            raise ConfigError(f"--set {key} shares out the steps of one model, and each task has its own: train.joint")
        if setting in DROPPING and config.coalitions == "retrained":
            raise ConfigError(
                f"--set {key} has no effect with coalitions=retrained, whose models see all their encoders at every"
                " step; nearest: coalitions=both"
            )


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
            raise ConfigError(f"{where}={value!r} must be a list{_as_list(value, where=where)}")
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
        raise ConfigError(f"{where}={value!r} must be of type {hint.__name__}{_as_json(value, hint)}")
    return value


def _as_json(value: Any, kind: type) -> str:
    """The nearest JSON of a value that Python would have read otherwise."""
    known = {"None": "null", "True": "true", "False": "false"}
    if not isinstance(value, str):
        return ""
    if value in known:
        return f"; nearest: {known[value]}"
    try:
        return f"; nearest: {json.dumps(kind(value))}"
    except ValueError:
        return ""


def _as_list(value: Any, *, where: str) -> str:
    """How to write a list that a shell has taken the quotes of, or that is one word."""
    if not isinstance(value, str):
        return ""
    words = [_json_or_word(word.strip()) for word in value.removeprefix("[").removesuffix("]").split(",")]
    return f"; in a shell: '{where}={json.dumps(words)}'"


def with_values(config: RunConfig, **changes: Any) -> RunConfig:
    """The configuration with the changes that are not None."""
    return replace(config, **{key: value for key, value in changes.items() if value is not None})
