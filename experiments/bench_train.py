"""`bench train`: the loop against a bare one, the concat operator against VisualBERT, coalitions, attention mass.

The shapes are in every line: B examples of L tokens, of which E encoders give N each, width W. Features are random, in
stores on disk. Rounds alternate between both sides, and the middle ratio counts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from encoders.store import FeatureStore, StoreMeta
from experiments.bench import Figure
from experiments.config import RunConfig
from experiments.data import FeatureBank, TaskData
from experiments.evaluate import Evaluator
from experiments.model import Group, TaskModel
from experiments.processes import ALONE
from experiments.training.batches import Batches
from experiments.training.checkpoint import Checkpoints
from experiments.training.loop import make_dropout, train_model
from experiments.training.optimizer import make_optimizer
from experiments.training.sampler import Sampler
from experiments.training.settings import TrainConfig
from fusion.config import FusionConfig
from fusion.model import FusionModel
from fusion.types import Coalition, all_coalitions
from fusion.ve_dropout import coalition_for
from tasks import load_task
from tasks.base import Example, Split

ANSWERS = ("yes", "no")
STEPS = 6
DRAWS = 8
SIDES = (3, 5, 7)


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
    """Examples, stores and a model of one shape."""

    def __init__(self, folder: Path, shape: Shape, *, images: int) -> None:
        self.shape, self.folder = shape, folder
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
        return TaskModel(fusion, {"gqa": item.task.objective(item.splits["train"], self.shape.width)})

    def batches(self, model: TaskModel, steps: int) -> list[Sequence[Group]]:
        """The steps' groups, in memory."""
        settings = self.config.train
        dropout = make_dropout(model.fusion.widths, settings)
        objectives = {"gqa": model.objective("gqa")}
        reader = Batches(self.bank, objectives, settings, dropout, "masked", 0, steps, ALONE)
        sampler = Sampler({"gqa": self.data["gqa"].splits["train"].examples}, settings, seed=0)
        return [group for draw in sampler.draws(last=steps) for group in reader.read(draw).parts]


def run(folder: Path, *, images: int | None, rounds: int, plot: Path | None = None) -> list[Figure]:
    """The figures; `images` is how many examples are trained and evaluated on."""
    return figures(Bench(folder / "main", Shape(), images=images or 192), rounds=rounds, plot=plot)


def figures(bench: Bench, *, rounds: int, plot: Path | None = None) -> list[Figure]:
    """All figures of one shape."""
    found = [loop_figure(bench, rounds=rounds), *operator_figures(bench, rounds=rounds)]
    found += [coalitions_figure(bench, rounds=rounds), attention_figure(bench, rounds=rounds)]
    return found + step_figures(bench, rounds=rounds, plot=plot)


def loop_figure(bench: Bench, *, rounds: int) -> Figure:
    """(a) Between two steps of the real loop, and of a bare one over tensors in memory."""
    ratios = []
    for _ in range(rounds):
        bare = bare_loop(bench, STEPS)
        ratios.append(real_loop(bench, STEPS) / bare)
    what = f"training loop on a store ÷ bare loop over tensors in memory ({bench.shape})"
    return Figure(what, median(ratios), most=1.1)


def real_loop(bench: Bench, steps: int) -> float:
    """Seconds a step, the first left out."""
    at: list[float] = []

    def note(model: TaskModel) -> dict[str, float]:
        at.append(time.perf_counter())
        return {"gqa": 0.0}

    config = replace(bench.config, train=replace(bench.config.train, steps=steps, validate_steps=1))
    train_model(
        bench.model(),
        bench.data,
        bench.bank,
        config,
        name="bench",
        mode="masked",
        seed=0,
        accelerator=Accelerator(cpu=not torch.cuda.is_available()),
        validate=note,
        checkpoints=Checkpoints(bench.folder / "checkpoints"),
    )
    return (at[-1] - at[0]) / (steps - 1)


def bare_loop(bench: Bench, steps: int) -> float:
    """Seconds a step, the first left out: forward, backward, clipping, AdamW."""
    model = bench.model().train()
    optimizer = make_optimizer(model, bench.config.train)
    generator = torch.Generator().manual_seed(0)
    started = 0.0
    for number, groups in enumerate(bench.batches(model, steps)):
        if number == 1:
            started = time.perf_counter()
        model(groups, generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.perf_counter() - started) / (steps - 1)


def operator_figures(bench: Bench, *, rounds: int) -> list[Figure]:
    """(b) Forward and backward of `concat`, whole and with encoders dropped, and of transformers' VisualBertModel."""
    shape = bench.shape
    model = bench.model().train()
    group = bench.batches(model, 1)[0][0]
    draws = [coalition_for(0, step, 0, shape.aliases, 0.5, 0.1) for step in range(DRAWS)]
    peer = visual_bert(model, shape, group)
    whole, dropped = [], []
    for _ in range(rounds):
        reference = timed(peer)
        whole.append(timed(partial(concat_step, model, group, shape.aliases)) / reference)
        dropped.append(
            sum(timed(partial(concat_step, model, group, coalition)) for coalition in draws) / DRAWS / timed(peer)
        )
    mean = shape.text + shape.tokens * sum(map(len, draws)) / DRAWS
    half = f"the same with VE-dropout at 0.5, mean of {DRAWS} draws, mean L={mean:.0f} ({shape})"
    return [
        Figure(f"concat forward + backward ÷ VisualBertModel ({shape})", median(whole), most=1.0),
        Figure(half, median(dropped), most=0.7),
    ]


def concat_step(model: TaskModel, group: Group, coalition: Coalition) -> None:
    """One forward and backward pass of the fusion model."""
    encoded = model.fusion.encode([example.text for example in group.examples], group.features, coalition)
    encoded.pooled.sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)


def visual_bert(model: TaskModel, shape: Shape, group: Group) -> Callable[[], None]:
    """One forward and backward pass of transformers' VisualBertModel of equal shape, on the same tokens."""
    from encoders import torchvision_compat  # noqa: F401  # isort: skip
    from transformers import VisualBertConfig, VisualBertModel

    sizes: dict[str, Any] = {"hidden_size": shape.width, "visual_embedding_dim": shape.width}
    depth: dict[str, Any] = {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads}
    depth["intermediate_size"] = 4 * shape.width
    off: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    vocab = model.fusion.tokenizer.vocab_size
    peer = VisualBertModel(VisualBertConfig(vocab_size=vocab, **sizes, **depth, **off)).train()
    ids, mask = model.fusion.tokenizer.ids([e.text for e in group.examples], max_text=shape.text)
    tokens = torch.cat([group.features[alias].tokens for alias in shape.aliases], dim=1)
    seen = torch.ones(tokens.shape[:2], dtype=torch.long)

    def step() -> None:
        found: Tensor = peer(
            input_ids=ids,
            attention_mask=mask.long(),
            visual_embeds=tokens,
            visual_attention_mask=seen,
            visual_token_type_ids=torch.ones_like(seen),
        ).pooler_output
        found.sum().backward()  # type: ignore[no-untyped-call]
        peer.zero_grad(set_to_none=True)

    return step


def coalitions_figure(bench: Bench, *, rounds: int) -> Figure:
    """(c) All coalitions, and as many evaluations of all encoders, reading included."""
    evaluator = Evaluator(bench.model(), bench.bank, bench.data["gqa"], "test", batch_size=bench.shape.batch)
    every, ratios = all_coalitions(bench.shape.aliases), []
    evaluator.answers(bench.shape.aliases)
    for _ in range(rounds):
        full = timed(partial(evaluator.answers, bench.shape.aliases))
        ratios.append(sum(timed(partial(evaluator.answers, coalition)) for coalition in every) / len(every) / full)
    what = f"all {len(every)} coalitions ÷ {len(every)} full evaluations ({bench.shape})"
    return Figure(what, median(ratios), most=0.6)


@torch.no_grad()
def attention_figure(bench: Bench, *, rounds: int) -> Figure:
    """(d) Evaluation with the attention mass of every layer and head, and without."""
    model = bench.model().eval()
    group = bench.batches(model, 1)[0][0]
    texts, ratios = [example.text for example in group.examples], []
    encode = partial(model.fusion.encode, texts, group.features, bench.shape.aliases)
    encode()
    for _ in range(rounds):
        plain = min(timed(encode) for _ in range(3))
        ratios.append(min(timed(partial(encode, attention="mass")) for _ in range(3)) / plain)
    return Figure(f"evaluation with attention mass ÷ without ({bench.shape})", median(ratios), most=1.25)


def step_figures(bench: Bench, *, rounds: int, plot: Path | None) -> list[Figure]:
    """(e) Seconds of forward and backward against tokens and encoders, fitted by least squares."""
    rows = []
    for side in SIDES:
        shape = replace(bench.shape, tokens=side * side)
        own = Bench(bench.folder / f"side-{side}", shape, images=shape.batch)
        model = own.model().train()
        group = own.batches(model, 1)[0][0]
        for count in range(1, shape.encoders + 1):
            work = partial(concat_step, model, group, shape.aliases[:count])
            work()
            length = shape.text + count * shape.tokens
            rows.append((length, count, median(timed(work) for _ in range(rounds))))
    lengths, encoders, seconds = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    terms = np.stack([np.ones_like(lengths), lengths, lengths**2, encoders], axis=1)
    fit, *_ = np.linalg.lstsq(terms, seconds, rcond=None)
    unexplained = ((seconds - terms @ fit) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    if plot is not None:
        draw(plot, rows, fit)
    fixed = f"B={bench.shape.batch}, W={bench.shape.width}, {bench.shape.layers} layers"
    shown = f"{fixed}, L={lengths.min():.0f}–{lengths.max():.0f}"
    names = ("constant", "a token", "a token squared", "an encoder")
    units = ("ms", "ms", "µs", "ms")
    scale = (1e3, 1e3, 1e6, 1e3)
    found = [
        Figure(f"step time, {name} ({shown})", float(value) * factor, unit)
        for name, value, factor, unit in zip(names, fit, scale, units, strict=True)
    ]
    return [*found, Figure(f"share of the step times' variance that this fit leaves ({shown})", float(unexplained))]


def draw(path: Path, rows: Sequence[tuple[int, int, float]], fit: np.ndarray) -> None:
    """Step times by tokens, a colour for each number of encoders, and the fit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for count in sorted({encoders for _, encoders, _ in rows}):
        own = sorted((length, 1000 * seconds) for length, encoders, seconds in rows if encoders == count)
        lengths = np.array([length for length, _ in own], dtype=float)
        (line,) = axes.plot(lengths, [value for _, value in own], "o", label=f"{count} encoders")
        fitted = 1000 * (fit[0] + fit[1] * lengths + fit[2] * lengths**2 + fit[3] * count)
        axes.plot(lengths, fitted, color=line.get_color())
    axes.set_xlabel("tokens L")
    axes.set_ylabel("forward + backward, ms")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
