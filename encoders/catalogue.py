"""`python -m encoders.catalogue`: the twenty encoders that this field uses most, and what is known of each.

Handed `catalogue.json`; hands on entries, and prints them as a table. What no source could be read for is None,
and printed as a question mark: nothing is filled in from memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("catalogue.json")


class Fact(NamedTuple):
    """A value with where it was read."""

    value: Any
    source: str
    protocol: str = ""


class CatalogueEntry(NamedTuple):
    """One encoder.

    Attributes:
        spec: what to name on the command line.
        checkpoint: repository on the Hugging Face hub.
        revision: a commit that has the weights.
        resolution: height and width in pixels.
        width: values per token.
        grid: rows and columns of tokens.
        prefix: class and register tokens.
        imagenet: top-1 on ImageNet-1k validation in 0-1, with the protocol (fine-tuned, linear, zero-shot).
    """

    alias: str
    spec: str
    checkpoint: str
    revision: str
    licence: Fact | None
    resolution: tuple[int, int]
    width: int
    grid: tuple[int, int]
    prefix: int
    imagenet: Fact | None
    note: str | None

    @property
    def num_tokens(self) -> int:
        return self.prefix + self.grid[0] * self.grid[1]


def catalogue() -> list[CatalogueEntry]:
    """All entries, in the file's order."""
    listed = json.loads(FILE.read_text(encoding="utf-8"))["encoders"]
    entries = []
    for one in listed:
        facts = {key: None if one[key] is None else Fact(**one[key]) for key in ("licence", "imagenet")}
        pairs = {key: tuple(one[key]) for key in ("resolution", "grid")}
        entries.append(CatalogueEntry(**{**one, **facts, **pairs}))
    return entries


def sources() -> dict[str, str]:
    """Name of a source -> the file and commit that were read."""
    found: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["sources"]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m encoders.catalogue", description=__doc__)
    parser.parse_args(argv)
    head = f"{'alias':15} {'pixels':7} {'tokens':>6} {'width':>5} {'ImageNet top-1':20} {'licence':14}"
    print(f"{head} {'revision':8} spec")
    for entry in catalogue():
        accuracy = "?" if entry.imagenet is None else f"{entry.imagenet.value:.3f} {entry.imagenet.protocol}"
        pixels, licence = "x".join(map(str, entry.resolution)), "?" if entry.licence is None else entry.licence.value
        size = f"{pixels:7} {entry.num_tokens:6} {entry.width:5}"
        print(f"{entry.alias:15} {size} {accuracy:20} {licence:14} {entry.revision[:8]} {entry.spec}")
    print("sources:", *(f"  {name}: {where}" for name, where in sources().items()), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
