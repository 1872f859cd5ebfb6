"""`bench train`: the loop against a bare one, the concat operator against VisualBERT, coalitions, attention mass.

The shapes are in every line: B examples of L tokens, of which E encoders give N each, width W. Features are random, in
stores on disk. Rounds alternate between both sides, and the middle ratio counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from experiments.bench import Figure
from experiments.bench_extract import Took
from experiments.bench_model import Bench, Shape, concat_step, now, took
from experiments.bench_rate import rate_figures
from experiments.bench_steps import step_figures
from experiments.evaluate import Evaluator
from experiments.model import Group, TaskModel
from experiments.training.checkpoint import Checkpoints
from experiments.training.optimizer import make_optimizer
from experiments.training.train import train_model
from fusion.types import all_coalitions

STEPS = 6


def run(folder: Path, *, images: int | None, rounds: int, plot: Path | None = None) -> list[Figure]:
    """The figures; `images` is how many examples are trained and evaluated on."""
    return figures(Bench(folder / "main", Shape(), images=images or 192), rounds=rounds, plot=plot)


def figures(bench: Bench, *, rounds: int, plot: Path | None = None) -> list[Figure]:
    """All figures of one shape."""
    found = [*loop_figures(bench, rounds=rounds), *operator_figures(bench, rounds=rounds)]
    found += [*coalition_figures(bench, rounds=rounds), *attention_figures(bench, rounds=rounds)]
    return [*found, *step_figures(bench, rounds=rounds, plot=plot), *rate_figures(bench, rounds=rounds)]


class Ratio:
    """What one side took ÷ what the other took, round by round, on the clock and on the processors."""

    def __init__(self) -> None:
        self._wall: list[float] = []
        self._processor: list[float] = []

    def add(self, own: Took, other: Took) -> None:
        self._wall.append(own.wall / other.wall)
        self._processor.append(own.processor / other.processor)

    def figures(self, what: str, *, most: float) -> list[Figure]:
        return [
            Figure(what, median(self._wall), most=most),
            Figure("the same in processor seconds, which other work disturbs less", median(self._processor)),
        ]


def mean(weights: Sequence[float], parts: Sequence[Took]) -> Took:
    """The weighted sum of what parts took."""
    return Took(*(sum(w * part[k] for w, part in zip(weights, parts, strict=True)) for k in (0, 1)))


def loop_figures(bench: Bench, *, rounds: int) -> list[Figure]:
    """(a) The middle step of the real loop, and of a bare one over tensors in memory."""
    ratio = Ratio()
    for _ in range(rounds):
        bare = bare_loop(bench, STEPS)
        ratio.add(real_loop(bench, STEPS), bare)
    what = f"training loop on a store ÷ bare loop over tensors in memory ({bench.shape})"
    return ratio.figures(what, most=1.1)


def middle(at: Sequence[Took]) -> Took:
    """The median of what steps took, from the times at which they ended."""
    steps = [(b.wall - a.wall, b.processor - a.processor) for a, b in zip(at, at[1:], strict=False)]
    return Took(median(wall for wall, _ in steps), median(processor for _, processor in steps))


def real_loop(bench: Bench, steps: int) -> Took:
    """A step."""
    at: list[Took] = []

    def note(model: TaskModel) -> dict[str, float]:
        at.append(now())
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
    return middle(at)


def bare_loop(bench: Bench, steps: int) -> Took:
    """A step: forward, backward, clipping, AdamW."""
    model = bench.model().train()
    optimizer = make_optimizer(model, bench.config.train)
    generator = torch.Generator().manual_seed(0)
    batches, at = bench.batches(model, steps), []
    for groups in batches:
        model(groups, generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        at.append(now())
    return middle(at)


def operator_figures(bench: Bench, *, rounds: int) -> list[Figure]:
    """(b) Forward and backward of `concat`, whole and with encoders dropped, and of transformers' VisualBertModel."""
    shape = bench.shape
    model = bench.model().train()
    group = bench.batches(model, 1)[0][0]
    peer = visual_bert(model, shape, group)
    chances = size_chances(shape.encoders, rate=0.5, empty=0.1)
    whole, dropped = Ratio(), Ratio()
    peer()
    steps = [partial(concat_step, model, group, shape.aliases[:n]) for n in range(shape.encoders + 1)]
    for _ in range(4 * rounds):  # single passes differ by a tenth
        whole.add(took(steps[-1]), took(peer))
    for _ in range(rounds):
        dropped.add(mean(chances, [took(step) for step in steps]), took(peer))
    length = sum(chance * (shape.text + n * shape.tokens) for n, chance in enumerate(chances))
    half = f"the same with VE-dropout at 0.5, no encoder at 0.1, expected L={length:.0f} ({shape})"
    return [
        *whole.figures(f"concat forward + backward ÷ VisualBertModel ({shape})", most=1.0),
        *dropped.figures(half, most=0.7),
    ]


def size_chances(count: int, *, rate: float, empty: float) -> list[float]:
    """Chance of each number of encoders that VE-dropout leaves, none first; see `fusion.ve_dropout.coalition_for`."""
    left = [comb(count, n) * (1 - rate) ** n * rate ** (count - n) for n in range(count + 1)]
    return [empty, (1 - empty) * (left[1] + left[0]), *((1 - empty) * chance for chance in left[2:])]


def visual_bert(model: TaskModel, shape: Shape, group: Group) -> Callable[[], None]:
    """One forward and backward pass of transformers' VisualBertModel of equal shape, on the same tokens."""
    from encoders import torchvision_compat  # noqa: F401  # isort: skip
    from transformers import VisualBertConfig, VisualBertModel

    sizes: dict[str, Any] = {"hidden_size": shape.width, "visual_embedding_dim": shape.width}
    depth: dict[str, Any] = {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads}
    depth["intermediate_size"] = 4 * shape.width
    off: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    vocab = model.fusion.tokenizer.vocab_size
    tokens = torch.cat([group.features[alias].tokens for alias in shape.aliases], dim=1)
    peer = VisualBertModel(VisualBertConfig(vocab_size=vocab, **sizes, **depth, **off)).train().to(tokens.device)
    texts = model.fusion.tokenizer.ids([e.text for e in group.examples], max_text=shape.text)
    ids, mask = (part.to(tokens.device) for part in texts)
    seen = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)

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


def coalition_figures(bench: Bench, *, rounds: int) -> list[Figure]:
    """(c) All coalitions, and as many evaluations of all encoders, reading included."""
    evaluator = Evaluator(bench.model(), bench.bank, bench.data["gqa"], "test", batch_size=bench.shape.batch)
    every, ratio = all_coalitions(bench.shape.aliases), Ratio()
    evaluator.answers(bench.shape.aliases)
    for _ in range(rounds):
        parts, full = [], []
        for coalition in every:  # in turn, so that other work on the machine hits both sides alike
            parts.append(took(partial(evaluator.answers, coalition)))
            full.append(took(partial(evaluator.answers, bench.shape.aliases)))
        equal = [1.0] * len(every)
        ratio.add(mean(equal, parts), mean(equal, full))
    what = f"all {len(every)} coalitions ÷ {len(every)} full evaluations ({bench.shape})"
    return ratio.figures(what, most=0.6)


@torch.no_grad()
def attention_figures(bench: Bench, *, rounds: int) -> list[Figure]:
    """(d) Evaluation with the attention mass of every layer and head, and without."""
    model = bench.model().eval()
    group = bench.batches(model, 1)[0][0]
    texts, ratio = [example.text for example in group.examples], Ratio()
    encode = partial(model.fusion.encode, texts, group.features, bench.shape.aliases)
    encode()
    for _ in range(3 * rounds):
        plain = took(encode)
        ratio.add(took(partial(encode, attention="mass")), plain)
    return ratio.figures(f"evaluation with attention mass ÷ without ({bench.shape})", most=1.25)
