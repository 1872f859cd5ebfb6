"""The properties of the encoder contract, one function each: what `encoders.conformance` runs.

Handed an encoder; each function hands on what it found in a few words, or raises `Broken`, which says how the
property fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from encoders.base import Encoder, FileEncoder, Rows
from encoders.errors import EncoderError

IMAGES = 5
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-4, "bf16": 3e-2}
"""Largest relative L2 error of a token when its image stands in another batch; sums are ordered otherwise there."""
SHAPES = (("RGB", (97, 60)), ("RGB", (60, 97)), ("L", (64, 64)), ("P", (80, 50)), ("RGBA", (33, 70)), ("RGB", (3, 9)))


class Broken(ValueError):
    """A property does not hold; the message says how."""


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


def _described(encoder: Encoder) -> str:
    for name, kind in (("alias", str), ("name", str), ("width", int), ("num_prefix", int), ("num_params", int)):
        value = getattr(encoder, name, None)
        require(isinstance(value, kind), f"{name} is {value!r}, not {'an int' if kind is int else 'a str'}")
    require(encoder.dtype in TOLERANCE, f"dtype is {encoder.dtype!r}, none of {', '.join(TOLERANCE)}")
    require(re.fullmatch("[0-9a-f]{64}", encoder.fingerprint) is not None, f"fingerprint is {encoder.fingerprint!r}")
    require("\\" not in encoder.name and not encoder.name.startswith("/"), f"name {encoder.name!r} is a machine's path")
    rows, columns = encoder.grid
    require(min(encoder.width, rows, columns) > 0 <= encoder.num_prefix, "width, grid or prefix count is not positive")
    return f"{encoder.name}, {encoder.num_tokens} tokens of width {encoder.width}"


def _identity(encoder: Encoder) -> str:
    now = encoder.identity()
    require(now == encoder.fingerprint, f"fingerprint {encoder.fingerprint} is not identity() {now}")
    settings = dict(encoder.settings())
    require(json.loads(json.dumps(settings)) is not None, "settings() are no JSON values")
    encoder.alias, before = f"{encoder.alias}-2", encoder.alias
    try:
        require(encoder.identity() == now, "the fingerprint changes with the alias")
    finally:
        encoder.alias = before
    return f"fingerprint {now[:16]}… is identity(), whatever the alias"


def _preprocess_followed(encoder: Encoder) -> str:
    """Another description of the pixels must be another fingerprint."""
    described = encoder.preprocess.describe()
    require(json.loads(json.dumps(described)) == described, "preprocess.describe() does not survive JSON")
    before, preprocess = encoder.identity(), encoder.preprocess
    changed = tuple(value + 0.125 for value in preprocess.mean)
    try:
        encoder.preprocess = replace(preprocess, mean=changed)
        require(encoder.identity() != before, "other preprocessing has the same fingerprint")
    finally:
        encoder.preprocess = preprocess
    return f"{len(described)} settings, all JSON; a changed one changes the fingerprint"


def _weights_followed(encoder: Encoder) -> str:
    """One changed value in any tensor must change the fingerprint, and is put back."""
    weights = encoder.weights()
    require(bool(weights), "weights() is empty, so that the fingerprint cannot follow the weights")
    before, ignored = encoder.identity(), []
    names = sorted(weights)
    chosen = {names[0], names[-1], *names[:: max(1, len(names) // 4)]}
    with torch.no_grad():
        for name in sorted(chosen):
            tensor = weights[name]
            if not tensor.numel():
                continue
            last = (-1,) * tensor.ndim
            value = tensor[last].clone()
            tensor[last] = ~value if tensor.dtype is torch.bool else value + 1
            ignored += [name] if encoder.identity() == before else []
            tensor[last] = value
    require(not ignored, f"the fingerprint ignores {', '.join(ignored)}")
    require(encoder.identity() == before, "the fingerprint is another after the weights were put back")
    return f"{len(chosen)} of {len(weights)} tensors changed one by one, each changes it"


def _pixels(encoder: Encoder) -> str:
    height, width = encoder.preprocess.output
    for mode, size in SHAPES:
        image = _picture(3, size).convert(mode)
        planes = encoder.preprocess(image)
        fits = planes.dtype is torch.float32 and tuple(planes.shape) == (3, height, width)
        require(fits, f"a {mode} image of {size} becomes {planes.dtype} of shape {tuple(planes.shape)}")
        require(torch.equal(planes, encoder.preprocess(image)), f"a {mode} image gives other pixels the second time")
    return f"{len(SHAPES)} modes and shapes become 3x{height}x{width} float32"


def _shape(encoder: Encoder) -> str:
    tokens = encoder.tokens(_batch(encoder))
    wanted = IMAGES, encoder.num_tokens, encoder.width
    require(tuple(tokens.shape) == wanted, f"tokens have shape {tuple(tokens.shape)}, not {wanted}")
    require(tokens.dtype is torch.float32, f"tokens are {tokens.dtype}, not float32")
    require(not tokens.requires_grad, "tokens carry a gradient: the encoder is not frozen")
    require(bool(torch.isfinite(tokens).all()), "tokens are not finite")
    require(bool((tokens[0] != tokens[1]).any()), "two different images have equal tokens")
    kept = tokens.half() if encoder.dtype == "fp16" else tokens
    require(bool(torch.isfinite(kept).all()), f"values up to {tokens.abs().max():.3g} do not fit fp16; use bf16")
    rows, columns = encoder.grid
    return f"{encoder.num_prefix} prefix tokens and {encoder.num_grids} grid(s) of {rows}x{columns}, float32, finite"


def _boxes(encoder: Encoder) -> str:
    boxes = encoder.boxes
    require(tuple(boxes.shape) == (encoder.num_tokens, 4), f"boxes have shape {tuple(boxes.shape)}")
    _in_image(boxes)
    whole = torch.tensor([0.5, 0.5, 1.0, 1.0])
    prefix = boxes[: encoder.num_prefix]
    require(bool((prefix == whole).all()), "a prefix token's box is not the whole image")
    centres = boxes[encoder.num_prefix :, :2].reshape(encoder.num_grids, *encoder.grid, 2)
    down, across = centres[:, 1:, :, 1] - centres[:, :-1, :, 1], centres[:, :, 1:, 0] - centres[:, :, :-1, 0]
    require(bool((down > 0).all() and (across > 0).all()), "the grid does not run row by row from the top left")
    return "each token has one; whole image for the prefix, row by row for the grid"


def _determinism(encoder: Encoder) -> str:
    images = _batch(encoder)
    first, second = encoder.tokens(images), encoder.tokens(images)
    require(torch.equal(first, second), f"the same batch differs by {_error(first, second):.2g} the second time")
    return "the same batch twice gives equal bytes"


def _batch_invariance(encoder: Encoder) -> str:
    images = _batch(encoder)
    together = encoder.tokens(images)
    alone = torch.cat([encoder.tokens(image[None]) for image in images])
    turned = encoder.tokens(images.flip(0)).flip(0)
    worst, allowed = max(_error(together, alone), _error(together, turned)), TOLERANCE[encoder.dtype]
    require(worst <= allowed, f"an image alone, or elsewhere in the batch, differs by {worst:.2g} of its norm")
    return f"alone and in another order within {worst:.1e} (allowed {allowed:.0e})"


def _rows(encoder: Encoder) -> str:
    found, paths = _some_rows(encoder)
    total = int(found.lengths.sum())
    require(tuple(found.tokens.shape) == (total, encoder.width), f"tokens have shape {tuple(found.tokens.shape)}")
    require(tuple(found.boxes.shape) == (total, 4), f"boxes have shape {tuple(found.boxes.shape)}")
    require(found.tokens.dtype is torch.float32, f"tokens are {found.tokens.dtype}, not float32")
    require(bool(torch.isfinite(found.tokens).all()), "tokens are not finite")
    require(bool((found.lengths > 0).all()), "an image has no rows")
    most = int(found.lengths.max())
    require(most <= encoder.num_tokens, f"an image has {most} rows, more than grid says")
    _in_image(found.boxes)
    return f"{total} rows of {len(paths)} images, at most {encoder.num_tokens} each, boxes in the image"


def _rows_alone(encoder: Encoder) -> str:
    found, paths = _some_rows(encoder)
    files = _files(encoder)
    parts = [files.rows([path]) for path in paths]
    same = torch.equal(found.tokens, torch.cat([part.tokens for part in parts]))
    require(same and found.lengths.tolist() == [int(p.lengths[0]) for p in parts], "an image alone has other rows")
    return "one by one and together, equal bytes"


def _absent(encoder: Encoder) -> str:
    files = _files(encoder)
    try:
        files.rows([Path("no such image.jpg")])
    except EncoderError as error:
        require("no such image" in str(error), f"the message does not name the file: {error}")
        return "an image without features is refused by name"
    raise Broken("an image without features has rows")


def _views(encoder: Encoder) -> str:
    if encoder.views == 1:
        return "one, the plain image"
    views = [encoder.view(number) for number in range(encoder.views)]
    require(views[0].fingerprint == encoder.fingerprint, "view 0 is not the plain encoder")
    require(len({view.fingerprint for view in views}) == len(views), "two views have one fingerprint")
    for view in views:
        require(view.identity() == view.fingerprint, "a view's fingerprint is not its identity()")
        _in_image(view.boxes)
    return f"{len(views)}, each with its own fingerprint and boxes"


def same(encoder: Encoder, again: Encoder) -> str:
    """Two loads of one spec are one encoder."""
    require(encoder.fingerprint == again.fingerprint, "loading it twice gives two fingerprints")
    if encoder.reads == "pixels":
        images = _batch(encoder)
        require(torch.equal(encoder.tokens(images), again.tokens(images)), "loading it twice gives other tokens")
    return "the same fingerprint and tokens"


def _batch(encoder: Encoder) -> Float[Tensor, "b 3 h w"]:
    return torch.stack([encoder.preprocess(_picture(number, (97, 71))) for number in range(IMAGES)])


def _picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """A coarse coloured picture, different for each seed."""
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _error(one: Float[Tensor, "b n d"], other: Float[Tensor, "b n d"]) -> float:
    """The largest relative L2 difference of a token."""
    return float(((one - other).norm(dim=2) / one.norm(dim=2).clamp(min=1e-12)).max())


def _in_image(boxes: Float[Tensor, "n 4"]) -> None:
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    require(bool((low > -1e-4).all() and (high < 1 + 1e-4).all()), "a box leaves the image (cx cy w h in 0-1)")


def _files(encoder: Encoder) -> FileEncoder:
    require(isinstance(encoder, FileEncoder), "it reads files, but is no FileEncoder")
    assert isinstance(encoder, FileEncoder)
    return encoder


def _some_rows(encoder: Encoder) -> tuple[Rows, list[Path]]:
    files = _files(encoder)
    paths = [Path(f"{image}.jpg") for image in files.images()[:IMAGES]]
    require(bool(paths), "images() is empty")
    return files.rows(paths), paths


Property = Callable[[Encoder], str]
BASIC: Mapping[str, Property] = {
    "attributes": _described,
    "fingerprint": _identity,
    "preprocessing described": _preprocess_followed,
}
PIXELS: Mapping[str, Property] = {
    "weights in fingerprint": _weights_followed,
    "pixels": _pixels,
    "tokens": _shape,
    "boxes": _boxes,
    "determinism": _determinism,
    "batch invariance": _batch_invariance,
    "views": _views,
}
FILES: Mapping[str, Property] = {
    "rows": _rows,
    "rows one by one": _rows_alone,
    "absent image": _absent,
}
