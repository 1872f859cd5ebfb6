"""What a page of the report is made of: a heading, verdict boxes, and sections of figures, tables and examples.

Handed texts and numbers that are already words; hands on blocks which the HTML and Markdown templates render alike, so
that both say the same. A leaderboard is a page like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.drawing import Drawing


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number it is sorted by (None: as text)."""

    text: str
    sort: int | float | None = None


@dataclass(frozen=True)
class Table:
    """A titled table; the first column names the row.

    Attributes:
        shown: whether the page shows it at once, or only its title until somebody opens it.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    shown: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Example:
    """One example of the data: its image, what was asked, and answers by whose they are."""

    task: str
    image: str
    label: str
    text: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Examples:
    """Some examples under a title."""

    title: str
    items: Sequence[Example]
    kind: str = "examples"


Block = Drawing | Table | Examples


@dataclass(frozen=True)
class Group:
    """Blocks under one heading, most often a task."""

    title: str
    lines: Sequence[str]
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """One numbered part of a page."""

    key: str
    title: str
    lead: Sequence[str]
    groups: Sequence[Group]


@dataclass(frozen=True)
class Verdict:
    """A task's verdict box: the headline, and per encoder grade, sentence and action."""

    task: str
    title: str
    headline: str
    entries: Sequence[Mapping[str, str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class Page:
    """Everything that a template needs.

    Attributes:
        lead: sentences that open the verdict.
        overview: the verdict at a glance.
    """

    title: str
    summary: str
    lead: Sequence[str]
    overview: Table
    sections: Sequence[Section]
    foot: str
    verdicts: Sequence[Verdict] = ()

    @property
    def drawings(self) -> list[Drawing]:
        """All its figures."""
        return [block for block in self._blocks if isinstance(block, Drawing)]

    @property
    def examples(self) -> list[Example]:
        """All its examples, in order."""
        return [item for block in self._blocks if isinstance(block, Examples) for item in block.items]

    @property
    def _blocks(self) -> list[Block]:
        return [block for section in self.sections for group in section.groups for block in group.blocks]
