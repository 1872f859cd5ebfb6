"""Paints a `Scene`: a 128×128 RGB picture, and its JPEG bytes.

Object outlines come from signed distances, so that edges are smooth without supersampling; each has a dark rim, so
that its shape shows in greyscale too, whatever its colour. Backgrounds differ in their grain, which is one of hue at
equal luminance: in grey pictures all backgrounds are alike, and no hue belongs to any of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from experiments.world.scene import CANVAS, COLOURS, CURTAIN_WIDTH, Item, Scene

Array = NDArray[np.floating[Any]]
Paint = Callable[[np.random.Generator], Array]
Y, X = (axis.astype(np.float32) for axis in np.mgrid[0:CANVAS, 0:CANVAS])
FONT_SIZE = 19
OUTLINE = 1.8
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a pixel's luminance, as JPEG and greyscale conversion have them."""
GRAIN = 46
"""Levels of red or blue by which a background's grain moves the hue."""


def render(scene: Scene) -> Image.Image:
    """The picture of a scene, an RGB image of `CANVAS`×`CANVAS` pixels."""
    rng = np.random.default_rng(scene.seed)
    tint = rng.uniform(105, 165) + rng.uniform(-14, 14, size=3).astype(np.float32)
    hue = rng.uniform(0.8, 1.2) * GRAIN * _equal_luminance(rng.uniform(0, 2 * np.pi))
    grain = BACKGROUND_PAINTS[scene.background](rng)
    canvas = tint.astype(np.float32)[None, None, :] + grain[..., None] * hue
    for item in scene.items:
        _paint_item(canvas, item, rng)
    if scene.curtain:
        _paint_curtain(canvas, scene.curtain)
    canvas += 3 * rng.standard_normal(canvas.shape, dtype=np.float32)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if scene.top_text:
        _write(image, scene.top_text, top=True)
    if scene.bottom_text:
        _write(image, scene.bottom_text, top=False)
    return image


def _equal_luminance(angle: float) -> Array:
    """A direction in red, green and blue along which luminance stays the same."""
    red, blue = np.cos(angle), np.sin(angle)
    green = -(LUMINANCE[0] * red + LUMINANCE[2] * blue) / LUMINANCE[1]
    return np.asarray([red, green, blue], dtype=np.float32)


def jpeg_bytes(image: Image.Image) -> bytes:
    """The picture as a JPEG file of quality 92, hues at full resolution."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _noise(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Smooth noise in about −1…1: random values on a coarse lattice, enlarged."""
    coarse = rng.uniform(-1, 1, size=(rows, columns)).astype(np.float32)
    enlarged = Image.fromarray(coarse, mode="F").resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
    return np.asarray(enlarged, dtype=np.float32)


def _sine(phase: Array) -> Array:
    waves: Array = np.sin(phase, dtype=np.float32)
    return waves


def _brick(rng: np.random.Generator) -> Array:
    y, x = Y + rng.uniform(0, 20), X + rng.uniform(0, 28)
    shifted = x + 14 * (np.floor(y / 12) % 2)
    return np.where((y % 12 < 2) | (shifted % 28 < 2), 1.0, -0.3).astype(np.float32)


def _tiles(rng: np.random.Generator) -> Array:
    y, x = Y + rng.uniform(0, 20), X + rng.uniform(0, 20)
    return np.where((y % 20 < 2) | (x % 20 < 2), 1.0, -0.3).astype(np.float32)


def _wood(rng: np.random.Generator) -> Array:
    bend = 5 * _noise(rng, 4, 4)
    return 0.7 * _sine((X + 2 * bend) * 0.55 + rng.uniform(0, 6))


def _water(rng: np.random.Generator) -> Array:
    sway = 1.6 * _sine(X * 0.12 + rng.uniform(0, 6))
    return 0.7 * _sine(Y * 0.5 + sway + rng.uniform(0, 6))


def _carpet(rng: np.random.Generator) -> Array:
    first = _sine((X + Y) * 0.5 + rng.uniform(0, 6))
    return 0.9 * first * _sine((X - Y) * 0.5 + rng.uniform(0, 6))


def _leaves(rng: np.random.Generator) -> Array:
    return np.sign(_noise(rng, 12, 12)).astype(np.float32) * 0.6


def _sky(rng: np.random.Generator) -> Array:
    blobs: Array = (64 - Y) / 64 + 0.3 * _noise(rng, 4, 4)
    return blobs


BACKGROUND_PAINTS: dict[str, Paint] = {
    "paper": lambda rng: rng.uniform(-1, 1, size=(CANVAS, CANVAS)).astype(np.float32) * 0.7,
    "sand": lambda rng: _noise(rng, 40, 40),
    "sky": _sky,
    "grass": lambda rng: _noise(rng, 10, 64),
    "fog": lambda rng: _noise(rng, 5, 5),
    "rain": lambda rng: 0.7 * _sine((X + 0.5 * Y) * 0.7 + 2 * _noise(rng, 12, 12)),
    "brick": _brick,
    "wood": _wood,
    "tiles": _tiles,
    "carpet": _carpet,
    "water": _water,
    "leaves": _leaves,
}


def _paint_item(canvas: Array, item: Item, rng: np.random.Generator) -> None:
    reach = int(item.radius) + 3
    rows = slice(max(0, int(item.y) - reach), min(CANVAS, int(item.y) + reach + 1))
    columns = slice(max(0, int(item.x) - reach), min(CANVAS, int(item.x) + reach + 1))
    x, y = X[rows, columns] - item.x, Y[rows, columns] - item.y
    distance = OUTLINES[item.shape](x, y, item.radius)
    cover, rim = np.clip(0.5 - distance, 0, 1)[..., None], np.clip(0.5 + distance + OUTLINE, 0, 1)[..., None]
    surface = _surface(item, x, y, rng) * (1 - 0.75 * rim)
    canvas[rows, columns] = canvas[rows, columns] * (1 - cover) + surface * cover


def _surface(item: Item, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Colour of each pixel: the item's colour, alternating with a second tone where it is textured."""
    colour = np.asarray(COLOURS[item.colour], dtype=np.float32)
    second = colour * 0.42 if item.colour != "black" else np.full(3, 120, dtype=np.float32)
    phase = float(rng.uniform(0, 6))
    if item.texture == "striped":
        dark = np.sin((x + y) * 0.78 + phase) > 0.1
    elif item.texture == "dotted":
        dark = ((x + phase) % 9 - 4.5) ** 2 + ((y + phase) % 9 - 4.5) ** 2 < 7.5
    elif item.texture == "checked":
        dark = (np.floor((x + phase) / 5) + np.floor((y + phase) / 5)) % 2 > 0
    else:
        dark = np.zeros_like(x, dtype=bool)
    return np.where(dark[..., None], second, colour)


def _polygon(points: list[tuple[float, float]]) -> Callable[[Array, Array, float], Array]:
    """Signed distance (negative inside) to a simple polygon given in units of the radius."""

    def distance(x: Array, y: Array, radius: float) -> Array:
        inside = np.zeros(x.shape, dtype=bool)
        nearest = np.full(x.shape, np.inf, dtype=np.float32)
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            ax, ay, bx, by = ax * radius, ay * radius, bx * radius, by * radius
            ex, ey = bx - ax, by - ay
            t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - t * ex, y - ay - t * ey)).astype(np.float32)
            crosses = (ay > y) != (by > y)
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (x < ex * (y - ay) / ey + ax)
        return np.where(inside, -nearest, nearest).astype(np.float32)

    return distance


def _star_points() -> list[tuple[float, float]]:
    angles = [-np.pi / 2 + np.pi * k / 5 for k in range(10)]
    return [
        (float(np.cos(a)) * (1.08 if k % 2 == 0 else 0.46), float(np.sin(a)) * (1.08 if k % 2 == 0 else 0.46))
        for k, a in enumerate(angles)
    ]


def _heart_points() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _cross(x: Array, y: Array, radius: float) -> Array:
    ax, ay, arm = np.abs(x), np.abs(y), 0.36 * radius
    bar = np.maximum(ax - radius, ay - arm)
    return np.minimum(bar, np.maximum(ay - radius, ax - arm))


OUTLINES: dict[str, Callable[[Array, Array, float], Array]] = {
    "circle": lambda x, y, radius: np.hypot(x, y) - radius,
    "square": lambda x, y, radius: np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius,
    "triangle": _polygon([(0.0, -1.0), (0.98, 0.8), (-0.98, 0.8)]),
    "star": _polygon(_star_points()),
    "cross": _cross,
    "ring": lambda x, y, radius: np.abs(np.hypot(x, y) - 0.74 * radius) - 0.28 * radius,
    "heart": _polygon(_heart_points()),
}


def _paint_curtain(canvas: Array, side: str) -> None:
    columns = slice(0, CURTAIN_WIDTH) if side == "left" else slice(CANVAS - CURTAIN_WIDTH, CANVAS)
    folds = 92 + 26 * np.sin(X[:, columns] * 0.9)
    canvas[:, columns] = folds[..., None] * np.asarray([0.95, 0.8, 0.75], dtype=np.float32)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=FONT_SIZE)


def _write(image: Image.Image, text: str, *, top: bool) -> None:
    draw = ImageDraw.Draw(image)
    anchor, y = ("mt", 3) if top else ("mb", CANVAS - 3)
    draw.text((CANVAS // 2, y), text, fill="white", stroke_fill="black", stroke_width=2, anchor=anchor, font=_font())
