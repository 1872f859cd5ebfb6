"""A training run that takes a second: two tasks over random features in real stores on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from encoders.store import FeatureStore, StoreMeta
from experiments.bank import FeatureBank, Source
from experiments.config import RunConfig
from experiments.data import TaskData
from experiments.jobs import Job
from experiments.model import TaskModel
from experiments.training.checkpoint import Checkpoints
from experiments.training.launch import make_accelerator
from experiments.training.settings import TrainConfig
from experiments.training.train import make_dropout, train_model
from experiments.workshop import Workshop
from fusion.config import FusionConfig
from fusion.model import FusionModel
from tasks import load_task
from tasks.base import Example, Split

WIDTHS, TOKENS = {"vit": 6, "clip": 4}, {"vit": 4, "clip": 2}
NUM_IMAGES = 40
WORDS = "what colour is the very small round thing over there now".split()
SMALL = TrainConfig(
    joint=True, steps=8, batch_size=8, groups=2, lr=1e-2, checkpoint_steps=2, validate_steps=2, log_steps=3, trackers=()
)


def image_of(number: int) -> str:
    return f"{number}.jpg"


def examples(task: str) -> list[Example]:
    """One an image; texts of 1 to 10 words."""
    texts = [" ".join(WORDS[: 1 + k % 10]) for k in range(NUM_IMAGES)]
    target = (lambda k: None) if task == "flickr30k" else (lambda k: ("yes", "no", "red")[k % 3])
    return [Example(f"{task}-{k}", image_of(k), texts[k], target(k)) for k in range(NUM_IMAGES)]


def toy_data(folder: Path, *names: str) -> dict[str, TaskData]:
    data = {}
    for name in names:
        split = Split(examples=examples(name), image_root=folder, name="train", official="train")
        data[name] = TaskData(load_task(name), {"train": split, "select": split, "test": split})
    return data


def toy_bank(folder: Path, *names: str) -> FeatureBank:
    digests = [hashlib.sha256(image_of(k).encode()).hexdigest() for k in range(NUM_IMAGES)]
    stores = {}
    for alias, width in WIDTHS.items():
        boxes = ((0.5, 0.5, 1.0, 1.0),) * TOKENS[alias]
        meta = StoreMeta(f"toy:{alias}", "00" * 32, width, (1, TOKENS[alias]), 0, "fp32", boxes, {})
        store = FeatureStore(folder, meta)
        if not len(store):
            draw = torch.Generator().manual_seed(width)
            store.write_part(digests, torch.randn(NUM_IMAGES, TOKENS[alias], width, generator=draw))
        stores[alias] = (store,)
    return FeatureBank(stores, {(name, image_of(k)): digests[k] for name in names for k in range(NUM_IMAGES)})


class Toy:
    """Data, features and models in one folder; `train` trains one, each time from the same start."""

    def __init__(self, folder: Path, *names: str, dropout: float = 0.0, **settings: Any) -> None:
        self.folder = folder
        self.data, self.bank = toy_data(folder, *names), toy_bank(folder, *names)
        self.fusion = FusionConfig(width=16, layers=2, heads=2, text="scratch", dropout=dropout)
        self.settings = replace(SMALL, **settings)
        self.accelerator = make_accelerator(self.config())

    def config(self, **changes: Any) -> RunConfig:
        encoders = {alias: f"demo:{alias}" for alias in WIDTHS}
        train = replace(self.settings, **changes)
        places = {"run": "toy", "runs": str(self.folder / "runs"), "device": "cpu"}
        return RunConfig("tiny", encoders, tasks=tuple(self.data), fusion=self.fusion, train=train, **places)

    def workshop(self, *, runs: str = "runs", **changes: Any) -> Workshop:
        """Of a run of these settings, in a folder of its own."""
        config = replace(self.config(**changes), runs=str(self.folder / runs))
        return Workshop(config, self.data, {}, self.bank, self.accelerator, {})

    def job(self) -> Job:
        """The joint masked model."""
        sources = {alias: Source(alias) for alias in WIDTHS}
        return Job("masked", "joint", tuple(self.data), tuple(self.data), 0, tuple(WIDTHS), sources)

    def model(self, config: RunConfig) -> TaskModel:
        torch.manual_seed(0)
        objectives = {name: item.task.objective(item.splits["train"], 16) for name, item in self.data.items()}
        dropout = None if config.train.fill == "drop" else make_dropout(WIDTHS, config.train)
        return TaskModel(FusionModel(config.fusion, WIDTHS, seed=0), objectives, dropout=dropout)

    def train(
        self,
        name: str,
        *,
        validate: Callable[[TaskModel], Mapping[str, float]] = lambda model: {"gqa": 0.5},
        **changes: Any,
    ) -> tuple[TaskModel, dict[str, Any]]:
        """The model and its record; checkpoints of this name are gone on from."""
        config = self.config(**changes)
        model = self.model(config)
        record = train_model(
            model,
            self.data,
            self.bank,
            config,
            name="toy",
            mode="masked",
            seed=0,
            accelerator=self.accelerator,
            validate=lambda now: dict(validate(now)),
            checkpoints=Checkpoints(self.folder / name),
        )
        return model, record


def same_weights(one: TaskModel, two: TaskModel) -> bool:
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())
