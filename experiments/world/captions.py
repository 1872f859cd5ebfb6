"""Captions of a scene: each mentions some objects and some of their attributes, and says which factors it used.

Handed a generator and a `Scene`, hands on text and the factors mentioned. Five captions of one picture differ in
what they mention, as those of real annotators do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.world.scene import Item, Scene, relation

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
PLACES = {
    "paper": "on rough paper",
    "sand": "on sand",
    "sky": "under a pale sky",
    "grass": "on grass",
    "fog": "in the fog",
    "rain": "in the rain",
    "brick": "on a brick wall",
    "wood": "on wood",
    "tiles": "on tiles",
    "carpet": "on a carpet",
    "water": "on water",
    "leaves": "on leaves",
}
FACTORS = ("size", "texture", "colour", "shape")


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence and the factors that it mentions, in the order of `FACTORS`, then count, relation, …"""

    text: str
    factors: tuple[str, ...]


def article(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def noun_phrase(item: Item, factors: tuple[str, ...]) -> str:
    """Such as `small striped red star`; `thing` where the shape is not mentioned, `plain` when asked for."""
    words = [item.attribute(factor) for factor in FACTORS if factor in factors and factor != "shape"]
    return " ".join([*words, item.shape if "shape" in factors else "thing"])


def draw_caption(rng: np.random.Generator, scene: Scene, *, background: float) -> Caption:
    """One caption; `background` is the chance that the place is mentioned."""
    count = min(len(scene.items), 1 + int(rng.random() < 0.6) + int(rng.random() < 0.25))
    chosen = [scene.items[k] for k in rng.permutation(len(scene.items))[:count]]
    mentioned: set[str] = set()
    phrases = []
    for item in chosen:
        factors = _draw_factors(rng)
        mentioned.update(factors)
        phrases.append(article(noun_phrase(item, factors)))
    text = _join(rng, chosen, phrases, mentioned)
    if rng.random() < 0.2:
        mentioned.add("count")
        number = NUMBERS[len(scene.items)]
        text = f"{number} {'things' if len(scene.items) > 1 else 'thing'} with {text}"
    if rng.random() < background:
        mentioned.add("background")
        text += " " + PLACES[scene.background]
    if scene.top_text and rng.random() < 0.8:
        mentioned.add("text")
        text += f" and the word {scene.top_text}"
    order = (*FACTORS, "count", "relation", "background", "text")
    return Caption(text, tuple(factor for factor in order if factor in mentioned))


def _draw_factors(rng: np.random.Generator) -> tuple[str, ...]:
    kept = [f for f, chance in zip(FACTORS, (0.25, 0.45, 0.8, 0.85), strict=True) if rng.random() < chance]
    return tuple(kept) if set(kept) & {"colour", "shape", "texture"} else ("colour", "shape")


def _join(rng: np.random.Generator, chosen: list[Item], phrases: list[str], mentioned: set[str]) -> str:
    if len(chosen) > 1 and rng.random() < 0.5:
        how = relation(chosen[0], chosen[1])
        if how:
            mentioned.add("relation")
            return " and ".join([f"{phrases[0]} {how} {phrases[1]}", *phrases[2:]])
    return " and ".join(phrases)
