"""What the documentation of each operator promises, in numbers; and a small model's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from fusion_batch import TEXTS

from fusion.config import FusionConfig
from fusion.text import build_tokenizer


@dataclass(frozen=True)
class Facts:
    """What the documentation of an operator promises, in numbers."""

    mixed: int | None  # tokens that stand for the coalition; None where each encoder keeps its own
    query: str  # whose attention is reported
    mass_names: tuple[str, ...]  # spans among which it is shared out, for the coalition vit+clip with text
    weight: str  # what an encoder's weight is made of


OWN = ("cls", "text", "vit", "clip")
FACTS: Mapping[str, Facts] = {
    "concat": Facts(None, "cls", OWN, "attention"),
    "coattention": Facts(None, "cls", ("vit", "clip"), "attention"),
    "channel": Facts(1 + 49, "cls", ("cls", "text", "vit+clip"), "norm"),
    "resampler": Facts(32, "latents", ("vit", "clip"), "attention"),
    "gated": Facts(1 + 49, "cls", OWN, "gate"),
    "window": Facts(49, "cells", ("vit", "clip"), "attention"),
    "late": Facts(None, "cls", OWN, "equal"),
}


def facts_of(operator: str) -> Facts:
    """The line of an operator; the test that asks fails where there is none."""
    if operator not in FACTS:
        pytest.fail(f"operator {operator!r} has no facts: add a line {operator!r}: Facts(…) to FACTS in {__file__}")
    return FACTS[operator]


def small_config(folder: Path) -> FusionConfig:
    """Two pre-norm layers of width 32 from scratch, with a tokenizer of the batch's words in `folder`."""
    build_tokenizer(TEXTS, folder=folder)
    return FusionConfig(width=32, layers=2, heads=4, text="scratch", tokenizer=str(folder), max_text=16)
