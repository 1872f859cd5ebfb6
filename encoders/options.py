"""The options of an encoder spec: what may follow its question mark, and what the values mean.

Handed strings as typed, hands on `Settings`. Nothing heavy is imported, so that a mistyped flag fails at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from encoders.errors import EncoderError, nearest

Layer: TypeAlias = int | None
"""A block or stage, from 0, or negative from the last; None is what the library calls the final features."""

Join = Literal["width", "tokens"]
Prefix = Literal["keep", "drop"]
Compile = Literal["no", "yes"]
Layout = Literal["contiguous", "channels_last"]

OPTIONS: dict[str, str] = {
    "layer": "blocks or stages, from 0, or negative from the last, or `final` (default): one, or several as 3,7,final",
    "join": "several layers as one entry: `width` puts their values side by side, `tokens` one after the other",
    "pool": "HxW: the grid averaged down to H rows and W columns, prefix tokens kept apart",
    "prefix": "keep (default) or drop the class and register tokens",
    "size": "HxW pixels of the input, or one number for a square; position embeddings are interpolated",
    "dtype": "fp16 (default), fp32: computed in float32, stored so; bf16: computed under autocast, stored so",
    "compile": "yes: the model is compiled by torch.compile at the first batch; no (default)",
    "layout": "channels_last: images and convolutions in that order in memory; contiguous (default)",
    "views": "how many deterministic views of each image are stored: the plain one and crops of it",
    "revision": "branch, tag or commit of the Hugging Face hub repository that the weights come from",
    "top": "regions: at most so many of each image, the first of the file",
}
OWN: dict[str, frozenset[str]] = {
    "timm": frozenset(OPTIONS) - {"top"},
    "open_clip": frozenset(OPTIONS) - {"top"},
    "hf": frozenset(OPTIONS) - {"top"},
    "demo": frozenset(OPTIONS) - {"top", "revision"},
    "regions": frozenset({"dtype", "top"}),
}
"""Which of them a backend has; one that would be ignored is refused."""
OTHERS = frozenset({"layer", "join", "pool", "prefix", "dtype", "compile", "layout", "views"})
"""What `encoders.module` does for a backend of anyone's; more is for the backend to read from `spec.options`."""
JOINS: tuple[Join, ...] = ("width", "tokens")
PREFIXES: tuple[Prefix, ...] = ("keep", "drop")
COMPILES: tuple[Compile, ...] = ("no", "yes")
LAYOUTS: tuple[Layout, ...] = ("contiguous", "channels_last")
DTYPES = ("fp16", "fp32", "bf16")
FINAL = "final"
Word = TypeVar("Word", bound=str)


class Settings(NamedTuple):
    """The options of a spec as values.

    Attributes:
        layers: in the order given.
        join: how several layers become one entry; None where there is one.
        pool: rows and columns; None is the full grid.
        size: height and width of the input; None is the checkpoint's own.
        compile: whether torch.compile makes the kernels.
        layout: order of images and convolution weights in memory.
        views: how many views; 1 is the plain image alone.
        top: regions of an image; None is all.
    """

    layers: tuple[Layer, ...] = (None,)
    join: Join | None = None
    pool: tuple[int, int] | None = None
    prefix: Prefix = "keep"
    size: tuple[int, int] | None = None
    dtype: str = DTYPES[0]
    compile: Compile = "no"
    layout: Layout = "contiguous"
    views: int = 1
    revision: str | None = None
    top: int | None = None


def read_settings(options: Mapping[str, str], *, backend: str, source: str) -> Settings:
    """The options that a backend understands, as values.

    Args:
        source: the spec that they stand in, for messages.

    Raises:
        EncoderError: an option is unknown, has a value that it cannot have, or does not go with another.
    """
    known = OWN.get(backend, OTHERS)
    for key in options:
        if key not in known:
            raise EncoderError(f"unknown option {key!r} in encoder {source}: {nearest(key, sorted(known))}")
    settings = Settings(
        layers=_layers(options.get("layer", FINAL), source),
        join=_choice("join", options, JOINS, source),
        pool=_pair(options.get("pool"), "pool={!r} in encoder {} must be ROWSxCOLUMNS, such as 7x7", source),
        prefix=_choice("prefix", options, PREFIXES, source) or "keep",
        size=_size(options.get("size"), source),
        dtype=_choice("dtype", options, DTYPES, source) or DTYPES[0],
        compile=_choice("compile", options, COMPILES, source) or "no",
        layout=_choice("layout", options, LAYOUTS, source) or "contiguous",
        views=_count("views", options, source, largest=99) or 1,
        revision=options.get("revision"),
        top=_count("top", options, source, largest=9999),
    )
    if settings.join and len(settings.layers) == 1:
        raise EncoderError(f"join={settings.join} in encoder {source} needs several layers, such as layer=3,7,final")
    return settings


def layer_name(layer: Layer) -> str:
    """A layer as it is typed."""
    return FINAL if layer is None else str(layer)


def _layers(text: str, source: str) -> tuple[Layer, ...]:
    parts = text.split(",")
    if not all(part == FINAL or re.fullmatch(r"-?[0-9]{1,4}", part) for part in parts):
        raise EncoderError(
            f"layer={text!r} in encoder {source} must be one whole number, such as -2, or several as 3,7,{FINAL}"
        )
    layers = tuple(None if part == FINAL else int(part) for part in parts)
    if len(set(layers)) < len(layers):
        raise EncoderError(f"layer={text!r} in encoder {source} names a layer twice")
    return layers


def _choice(key: str, options: Mapping[str, str], choices: tuple[Word, ...], source: str) -> Word | None:
    value = options.get(key)
    for choice in choices:
        if value == choice:
            return choice
    if value is not None:
        raise EncoderError(f"{key}={value!r} in encoder {source}: {nearest(value, choices)}")
    return None


def _pair(text: str | None, message: str, source: str) -> tuple[int, int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", text):
        raise EncoderError(message.format(text, source))
    rows, _, columns = text.partition("x")
    return int(rows), int(columns)


def _size(text: str | None, source: str) -> tuple[int, int] | None:
    square = text is not None and re.fullmatch(r"[1-9][0-9]{0,3}", text)
    message = "size={!r} in encoder {} must be HEIGHTxWIDTH in pixels, such as 336x448, or one number"
    return _pair(f"{text}x{text}" if square else text, message, source)


def _count(key: str, options: Mapping[str, str], source: str, *, largest: int) -> int | None:
    text = options.get(key)
    if text is not None and not (re.fullmatch(r"[1-9][0-9]*", text) and int(text) <= largest):
        raise EncoderError(f"{key}={text!r} in encoder {source} must be a whole number from 1 to {largest}")
    return None if text is None else int(text)
