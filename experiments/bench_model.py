"""What `bench train` measures: examples, features in stores on disk and a model of one shape, and a clock."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from encoders.store import FeatureStore, StoreMeta
from experiments.bank import FeatureBank
from experiments.bench_extract import Took
from experiments.config import RunConfig
from experiments.data import TaskData
from experiments.model import Group, TaskModel
from experiments.processes import ALONE
from experiments.training.batches import Batches
from experiments.training.sampler import Sampler
from experiments.training.settings import TrainConfig
from experiments.training.train import make_dropout
from fusion.config import FusionConfig
from fusion.model import FusionModel
from fusion.types import Coalition
from tasks import load_task
from tasks.base import Example, Split

ANSWERS = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Shape:
    """B examples; E encoders of N tokens each and T text tokens, [CLS] and [SEP] included; width W."""

    batch: int = 32
    encoders: int = 4
    tokens: int = 49
    text: int = 17
    width: int = 384
    layers: int = 4
    heads: int = 6

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(f"e{number}" for number in range(self.encoders))

    @property
    def length(self) -> int:
        """L."""
        return self.text + self.encoders * self.tokens

    def __str__(self) -> str:
        parts = f"{self.encoders}×{self.tokens}+{self.text}"
        return f"B={self.batch}, L={self.length}={parts}, W={self.width}, {self.layers} layers"


class Bench:
    """Examples, stores and a model of one shape, on the GPU where there is one."""

    def __init__(self, folder: Path, shape: Shape, *, images: int) -> None:
        self.shape, self.folder = shape, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        text = " ".join(["a"] * (shape.text - 2))
        rows = [Example(str(k), f"{k}.jpg", text, ANSWERS[k % 2]) for k in range(images)]
        split = Split(examples=rows, image_root=folder, name="train", official="train")
        self.data = {"gqa": TaskData(load_task("gqa"), {"train": split, "select": split, "test": split})}
        digests = {("gqa", row.image): hashlib.sha256(row.image.encode()).hexdigest() for row in rows}
        stores = {}
        for number, alias in enumerate(shape.aliases):
            boxes = tuple((0.5, 0.5, 1.0, 1.0) for _ in range(shape.tokens))
            grid = (1, shape.tokens)
            meta = StoreMeta(f"bench:{alias}-{shape.tokens}", "00" * 32, shape.width, grid, 0, "fp16", boxes, {})
            store = FeatureStore(folder, meta)
            draw = torch.Generator().manual_seed(number)
            store.write_part(
                list(digests.values()), torch.randn(images, shape.tokens, shape.width, generator=draw)
            )
            stores[alias] = (store,)
        self.bank = FeatureBank(stores, digests)
        fusion = FusionConfig(width=shape.width, layers=shape.layers, heads=shape.heads, text="scratch")
        train = TrainConfig(
            batch_size=shape.batch, groups=1, ve_dropout=0.0, empty=0.0, checkpoint_steps=None, trackers=()
        )
        encoders = dict.fromkeys(shape.aliases, "bench")
        self.config = RunConfig("bench", encoders, tasks=("gqa",), fusion=fusion, train=train, runs=str(folder))

    def model(self) -> TaskModel:
        fusion = FusionModel(self.config.fusion, dict.fromkeys(self.shape.aliases, self.shape.width), seed=0)
        item = self.data["gqa"]
        return TaskModel(fusion, {"gqa": item.task.objective(item.splits["train"], self.shape.width)}).to(self.device)

    def batches(self, model: TaskModel, steps: int) -> list[Sequence[Group]]:
        """The steps' groups, in the device's memory and in float32, as any other loop would hold them."""
        settings = self.config.train
        dropout = make_dropout(model.fusion.widths, settings)
        objectives = {"gqa": model.objective("gqa")}
        reader = Batches(self.bank, objectives, settings, dropout, "masked", 0, steps, ALONE)
        sampler = Sampler({"gqa": self.data["gqa"].splits["train"].examples}, settings, seed=0)
        parts = [part for draw in sampler.draws(last=steps) for part in reader.read(draw).parts]
        return [[_in_float32(group.to(self.device)) for group in part] for part in parts]


def _in_float32(group: Group) -> Group:
    features = {alias: replace(found, tokens=found.tokens.float()) for alias, found in group.features.items()}
    return replace(group, features=features)


def concat_step(model: TaskModel, group: Group, coalition: Coalition) -> None:
    """One forward and backward pass of the fusion model."""
    encoded = model.fusion.encode([example.text for example in group.examples], group.features, coalition)
    encoded.pooled.sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)


def now() -> Took:
    """The clock and the processors' time, when all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Took(time.perf_counter(), time.process_time())


def took(work: Callable[[], object]) -> Took:
    """Runs a call."""
    started = now()
    work()
    ended = now()
    return Took(ended.wall - started.wall, ended.processor - started.processor)
