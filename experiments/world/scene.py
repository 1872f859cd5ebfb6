"""What a picture shows: objects with known attributes, a background, perhaps a curtain or written words.

Handed a random generator and a `SceneStyle`, hands on a `Scene`. Coordinates are pixels of the square canvas,
x to the right and y down. The scene is the ground truth for every caption, question and attribution test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

CANVAS = 128
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 38),
    "orange": (242, 140, 24),
    "yellow": (240, 224, 48),
    "green": (34, 158, 58),
    "blue": (40, 80, 216),
    "purple": (138, 48, 178),
    "white": (246, 246, 246),
    "black": (18, 18, 18),
}
TEXTURES = ("plain", "striped", "dotted", "checked")
RADII = {"small": 11.0, "large": 18.0}
SIZES = tuple(RADII)
OPEN_BACKGROUNDS = ("paper", "sand", "sky", "grass", "fog", "rain")
DENSE_BACKGROUNDS = ("brick", "wood", "tiles", "carpet", "water", "leaves")
BACKGROUNDS = OPEN_BACKGROUNDS + DENSE_BACKGROUNDS
WORDS = (
    "apple",
    "bread",
    "chair",
    "dance",
    "eagle",
    "flame",
    "grape",
    "house",
    "island",
    "jewel",
    "lemon",
    "music",
    "night",
    "ocean",
    "piano",
    "queen",
)
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CURTAIN_WIDTH = 40
WORD_BAND = 22
Curtain = Literal["", "left", "right"]


@dataclass(frozen=True, slots=True)
class Item:
    """One object: its attributes and its centre in pixels."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float

    @property
    def radius(self) -> float:
        return RADII[self.size]

    def attribute(self, factor: str) -> str:
        """The value of `shape`, `colour`, `texture` or `size`."""
        return str(getattr(self, factor))


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that decides a picture. `seed` fixes the background's grain, nothing that is asked about."""

    items: tuple[Item, ...]
    background: str
    seed: int
    curtain: Curtain = ""
    top_text: str = ""
    bottom_text: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two scenes the same for the rule that splits share none."""
        return (self.items, self.background, self.seed)


@dataclass(frozen=True, slots=True)
class SceneStyle:
    """A domain: how many objects, on which backgrounds, how often there is a curtain or a written word."""

    counts: tuple[float, ...] = (0.22, 0.30, 0.24, 0.14, 0.06, 0.04)
    backgrounds: tuple[str, ...] = OPEN_BACKGROUNDS
    curtain: float = 0.0
    word: float = 0.0


OPEN = SceneStyle()
DENSE = SceneStyle(counts=(0.08, 0.2, 0.28, 0.26, 0.1, 0.08), backgrounds=DENSE_BACKGROUNDS)
EVERYTHING = SceneStyle(counts=(0.3, 0.28, 0.2, 0.12, 0.06, 0.04), backgrounds=BACKGROUNDS, curtain=0.2, word=0.5)


def draw_item(rng: np.random.Generator, x: float, y: float, size: str) -> Item:
    """An item whose shape, colour and texture are independent and uniform."""
    return Item(
        shape=SHAPES[rng.integers(len(SHAPES))],
        colour=tuple(COLOURS)[rng.integers(len(COLOURS))],
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        size=size,
        x=x,
        y=y,
    )


def draw_scene(rng: np.random.Generator, style: SceneStyle) -> Scene:
    """A scene of one style. Objects overlap neither one another, nor the curtain, nor the words' bands."""
    count = 1 + int(rng.choice(len(style.counts), p=style.counts))
    curtain: Curtain = ""
    if rng.random() < style.curtain:
        curtain = "left" if rng.random() < 0.5 else "right"
        count = min(count, 4)
    word = WORDS[rng.integers(len(WORDS))] if rng.random() < style.word else ""
    sizes = [SIZES[rng.integers(2)] for _ in range(count)]
    places = _places(rng, [RADII[size] for size in sizes], curtain)
    items = tuple(draw_item(rng, x, y, size) for size, (x, y) in zip(sizes, places, strict=True))
    background = style.backgrounds[rng.integers(len(style.backgrounds))]
    return Scene(items, background, int(rng.integers(2**31)), curtain, word)


def _places(rng: np.random.Generator, radii: list[float], curtain: Curtain) -> list[tuple[float, float]]:
    left = CURTAIN_WIDTH if curtain == "left" else 0
    right = CANVAS - (CURTAIN_WIDTH if curtain == "right" else 0)
    while True:
        places: list[tuple[float, float]] = []
        for index, radius in enumerate(radii):
            for _ in range(60):
                x = float(rng.uniform(left + radius + 1, right - radius - 1))
                y = float(rng.uniform(WORD_BAND + radius, CANVAS - WORD_BAND - radius))
                gaps = [np.hypot(x - px, y - py) - radius - radii[other] for other, (px, py) in enumerate(places)]
                if all(gap > 2 for gap in gaps):
                    places.append((round(x, 2), round(y, 2)))
                    break
            if len(places) != index + 1:
                break
        if len(places) == len(radii):
            return places


def relation(first: Item, second: Item) -> str:
    """How `first` stands to `second`: the direction of the larger offset; empty if the two are too close to tell."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(abs(dx) - abs(dy)) < 6:
        return ""
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def unique_by(scene: Scene, factor: str) -> list[Item]:
    """Items whose value of `factor` no other item of the scene shares."""
    values = [item.attribute(factor) for item in scene.items]
    return [item for item, value in zip(scene.items, values, strict=True) if values.count(value) == 1]


def with_text(scene: Scene, top: str, bottom: str) -> Scene:
    """The same scene with other words written on it (a benign confounder of a meme)."""
    return replace(scene, top_text=top, bottom_text=bottom)
