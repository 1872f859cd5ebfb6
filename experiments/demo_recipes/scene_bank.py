"""Training scenes for the demo encoders: pictures at the encoders' input size, their scenes and captions.

The seeds start at 2⁴⁰, the datasets' seeds are below 2³²: no task ever shows one of these scenes.
"""

from __future__ import annotations

import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from experiments.world.captions import draw_caption
from experiments.world.renderer import jpeg_bytes, render
from experiments.world.scene import EVERYTHING, Scene, draw_scene

INPUT = 64
SEED_BASE = 2**40
CAPTIONS = 6
MEAN, STD = 0.5, 0.25


@dataclass(frozen=True, slots=True)
class SceneBank:
    """`pixels` are uint8 at `INPUT`×`INPUT`, made as the encoders' preprocessing makes them from the JPEG file."""

    pixels: UInt8[Tensor, "b 3 h w"]
    scenes: list[Scene]
    captions: list[list[str]]

    def batch(self, rows: Tensor) -> Tensor:
        """Normalised pictures of some rows, b 3 h w."""
        pixels: Float[Tensor, "b 3 h w"] = (self.pixels[rows].float() / 255 - MEAN) / STD
        return pixels


def make_scene_bank(count: int, *, seed: int = 0, workers: int = 2, paint: bool = True) -> SceneBank:
    """Draw, paint, compress and decode `count` scenes; without `paint` there are no pixels."""
    starts = range(0, count, 500)
    sizes = [min(500, count - start) for start in starts]
    with ProcessPoolExecutor(workers) as pool:
        chunks = list(pool.map(_chunk, starts, sizes, [seed] * len(sizes), [paint] * len(sizes)))
    pixels = torch.from_numpy(np.concatenate([chunk[0] for chunk in chunks]))
    return SceneBank(pixels, [scene for c in chunks for scene in c[1]], [texts for c in chunks for texts in c[2]])


def _decoded(scene: Scene) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg_bytes(render(scene)))) as image:
        return np.asarray(image.resize((INPUT, INPUT), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def _chunk(start: int, size: int, seed: int, paint: bool) -> tuple[np.ndarray, list[Scene], list[list[str]]]:
    pixels = np.empty((size if paint else 0, 3, INPUT, INPUT), dtype=np.uint8)
    scenes, captions = [], []
    for row in range(size):
        rng = np.random.default_rng([SEED_BASE + seed, start + row])
        scene = draw_scene(rng, EVERYTHING)
        if paint:
            pixels[row] = _decoded(scene)
        scenes.append(scene)
        captions.append([draw_caption(rng, scene, background=0.0).text for _ in range(CAPTIONS)])
    return pixels, scenes, captions
