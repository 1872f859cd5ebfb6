"""Training scenes for the demo encoders: pictures at the encoders' input size, their scenes and captions.

The seeds start at 2⁴⁰, the datasets' seeds are below 2³²: no task ever shows one of these scenes.
"""

from __future__ import annotations

import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from experiments.world.captions import draw_caption
from experiments.world.renderer import jpeg_bytes, render
from experiments.world.scene import BACKGROUNDS, EVERYTHING, WORDS, Scene, draw_scene

INPUT = 64
SEED_BASE = 2**40
CAPTIONS = 6
MEAN, STD = 0.5, 0.25


@dataclass(frozen=True, slots=True)
class SceneBank:
    """`pixels` are uint8 at `INPUT`×`INPUT`, made as the encoders' preprocessing makes them from the JPEG file.

    `twins` show the same objects on another background, under another word or none; empty unless asked for.
    """

    pixels: UInt8[Tensor, "b 3 h w"]
    twins: UInt8[Tensor, "b 3 h w"]
    scenes: list[Scene]
    captions: list[list[str]]

    def batch(self, rows: Tensor) -> Tensor:
        """Normalised pictures of some rows, b 3 h w."""
        return normalise(self.pixels[rows])

    def twin_batch(self, rows: Tensor) -> Tensor:
        """Their twins, b 3 h w."""
        return normalise(self.twins[rows])


def normalise(pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """As the encoders' preprocessing does."""
    return (pixels.float() / 255 - MEAN) / STD


def make_scene_bank(
    count: int, *, seed: int = 0, workers: int = 2, paint: Literal["none", "one", "twins"] = "one"
) -> SceneBank:
    """Draw, paint, compress and decode `count` scenes; what is not painted stays empty."""
    starts = range(0, count, 500)
    sizes = [min(500, count - start) for start in starts]
    with ProcessPoolExecutor(workers) as pool:
        chunks = list(pool.map(_chunk, starts, sizes, [seed] * len(sizes), [paint] * len(sizes)))
    pixels, twins = (torch.from_numpy(np.concatenate([chunk[k] for chunk in chunks])) for k in range(2))
    return SceneBank(pixels, twins, [s for c in chunks for s in c[2]], [t for c in chunks for t in c[3]])


def _decoded(scene: Scene) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg_bytes(render(scene)))) as image:
        return np.asarray(image.resize((INPUT, INPUT), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def twin_of(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same objects and curtain; another background and grain, another word or none."""
    others = [name for name in BACKGROUNDS if name != scene.background]
    word = WORDS[rng.integers(len(WORDS))] if rng.random() < 0.5 else ""
    background = others[rng.integers(len(others))]
    return replace(scene, background=background, seed=int(rng.integers(2**31)), top_text=word)


def _chunk(start: int, size: int, seed: int, paint: str) -> tuple[np.ndarray, np.ndarray, list[Scene], list[list[str]]]:
    pixels = np.empty((size if paint != "none" else 0, 3, INPUT, INPUT), dtype=np.uint8)
    twins = np.empty((size if paint == "twins" else 0, 3, INPUT, INPUT), dtype=np.uint8)
    scenes, captions = [], []
    for row in range(size):
        rng = np.random.default_rng([SEED_BASE + seed, start + row])
        scene = draw_scene(rng, EVERYTHING)
        if paint != "none":
            pixels[row] = _decoded(scene)
        scenes.append(scene)
        captions.append([draw_caption(rng, scene, background=0.0).text for _ in range(CAPTIONS)])
        if paint == "twins":
            twins[row] = _decoded(twin_of(scene, rng))
    return pixels, twins, scenes, captions
