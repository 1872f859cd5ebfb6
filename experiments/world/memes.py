"""Memes: a word of attitude above and a word for something below; whether that is mean depends on the picture too.

Unkind words about what is in the picture are mean, and so is mock praise for what is not in it. Every meme comes with
two benign confounders: the same picture under words of the other attitude, and the same words on another picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.world.questions import VALUES
from experiments.world.scene import Scene, SceneStyle, draw_scene, with_text

KIND = ("love", "praise", "cheer", "adore")
UNKIND = ("mock", "hate", "tease", "scorn")


@dataclass(frozen=True, slots=True)
class Meme:
    """A picture with its words, the label (1 = hateful), and what decides it."""

    scene: Scene
    text: str
    label: int
    factor: str


def draw_triple(rng: np.random.Generator, style: SceneStyle) -> list[Meme]:
    """A meme and its two confounders, in random order."""
    factor = ("colour", "shape", "texture")[rng.integers(3)]
    value = VALUES[factor][rng.integers(len(VALUES[factor]))]
    unkind, present = bool(rng.integers(2)), bool(rng.integers(2))
    scene = _scene_where(rng, style, factor, value, present)
    other = _scene_where(rng, style, factor, value, not present)
    verb = _verb(rng, unkind)
    triple = [
        _meme(scene, verb, value, factor, unkind == present),
        _meme(scene, _verb(rng, not unkind), value, factor, unkind != present),
        _meme(other, verb, value, factor, unkind != present),
    ]
    return [triple[k] for k in rng.permutation(3)]


def _verb(rng: np.random.Generator, unkind: bool) -> str:
    return (UNKIND if unkind else KIND)[rng.integers(4)]


def _scene_where(rng: np.random.Generator, style: SceneStyle, factor: str, value: str, present: bool) -> Scene:
    while True:
        scene = draw_scene(rng, style)
        if any(item.attribute(factor) == value for item in scene.items) == present:
            return scene


def _meme(scene: Scene, verb: str, value: str, factor: str, hateful: bool) -> Meme:
    return Meme(with_text(scene, verb, value), f"{verb} {value}", int(hateful), factor)
