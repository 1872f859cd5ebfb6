"""SNLI-VE hypotheses about a scene, some of which nobody can decide because a curtain may hide the thing.

The same sentence is equally often entailed, contradicted and undecidable, so that the text alone says nothing.
With a curtain, what is not seen may still be there; without one, what is not seen is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.world.captions import NUMBERS, article
from experiments.world.questions import VALUES, plural
from experiments.world.scene import Scene

NATURAL_AT_LEAST = {2: 0.78, 3: 0.48, 4: 0.24}
NATURAL_TWO_OF_A_SHAPE = 0.047
Label = Literal["entailment", "neutral", "contradiction"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A sentence, its label, and the factor that decides it."""

    text: str
    label: Label
    factor: str
    facts: int


def draw_hypothesis(rng: np.random.Generator, scene: Scene) -> Hypothesis:
    """One hypothesis; over pictures of which half have a curtain the three labels are equally likely."""
    while True:
        hypothesis = KINDS[rng.integers(len(KINDS))](rng, scene)
        if hypothesis is not None:
            return hypothesis


def _seen(rng: np.random.Generator) -> bool:
    """Whether the thing that is spoken of is to be in sight: once in three."""
    return bool(rng.random() < 1 / 3)


def _keeps_balance(rng: np.random.Generator, seen: bool, *, natural: float) -> bool:
    """Accepts so that seen : unseen = 1 : 2, where `natural` is the chance of `seen` in an arbitrary scene."""
    odds = 2 * natural / (1 - natural)
    return bool(rng.random() < (min(1.0, 1 / odds) if seen else min(1.0, odds)))


def _draw_phrase(rng: np.random.Generator, scene: Scene, seen: bool) -> tuple[str, str, int] | None:
    """A noun phrase that does, or does not, fit some object in sight; its factor and number of facts."""
    if rng.random() < 0.7:
        factor = ("colour", "shape", "texture")[rng.integers(3)]
        present = {item.attribute(factor) for item in scene.items}
        pool = [value for value in VALUES[factor] if (value in present) == seen]
        if not pool:
            return None
        value = pool[rng.integers(len(pool))]
        return (value if factor == "shape" else f"{value} thing"), factor, 1
    pairs = {(item.colour, item.shape) for item in scene.items}
    while True:
        colour = VALUES["colour"][rng.integers(len(VALUES["colour"]))]
        shape = VALUES["shape"][rng.integers(len(VALUES["shape"]))]
        if ((colour, shape) in pairs) == seen:
            return f"{colour} {shape}", "colour+shape", 2


def _exists(rng: np.random.Generator, scene: Scene) -> Hypothesis | None:
    seen = _seen(rng)
    phrase = _draw_phrase(rng, scene, seen)
    if phrase is None:
        return None
    label: Label = "entailment" if seen else ("neutral" if scene.curtain else "contradiction")
    return Hypothesis(f"there is {article(phrase[0])} .", label, phrase[1], phrase[2])


def _none(rng: np.random.Generator, scene: Scene) -> Hypothesis | None:
    seen = _seen(rng)
    phrase = _draw_phrase(rng, scene, seen)
    if phrase is None:
        return None
    label: Label = "contradiction" if seen else ("neutral" if scene.curtain else "entailment")
    return Hypothesis(f"there is no {phrase[0]} .", label, phrase[1], phrase[2])


def _at_least(rng: np.random.Generator, scene: Scene) -> Hypothesis | None:
    number = int(rng.integers(2, 5))
    seen = len(scene.items) >= number
    if not _keeps_balance(rng, seen, natural=NATURAL_AT_LEAST[number]):
        return None
    label: Label = "entailment" if seen else ("neutral" if scene.curtain else "contradiction")
    return Hypothesis(f"there are at least {NUMBERS[number]} things .", label, "count", 1)


def _at_least_shape(rng: np.random.Generator, scene: Scene) -> Hypothesis | None:
    shape = VALUES["shape"][rng.integers(len(VALUES["shape"]))]
    seen = sum(item.shape == shape for item in scene.items) >= 2
    if not _keeps_balance(rng, seen, natural=NATURAL_TWO_OF_A_SHAPE):
        return None
    label: Label = "entailment" if seen else ("neutral" if scene.curtain else "contradiction")
    return Hypothesis(f"there are at least two {plural(shape)} .", label, "count", 2)


KINDS: tuple[Callable[[np.random.Generator, Scene], Hypothesis | None], ...] = (
    _exists,
    _exists,
    _exists,
    _none,
    _none,
    _none,
    _at_least,
    _at_least_shape,
)
