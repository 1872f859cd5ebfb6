"""How figures are drawn: matplotlib to SVG that follows the page's light or dark colours.

Handed an empty `Figure` by `canvas`, a figure function fills it; `Drawing` holds the finished figure in three
forms: stand-alone SVG and PNG on white, and inline markup whose ink, grid and series colours are the page's CSS
variables. Text stays text, ids are unique to the figure, and dates are left out so that the same numbers
give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

INK, MUTED, PAPER = "#1b1f24", "#6b737d", "#fdfdfd"
SERIES = ("#2f6fde", "#c4620a", "#178055", "#8a4fc7")
MARKERS = ("o", "s", "D", "^")
LONGEST_LABEL = 24
CROWDED = 36
"""Letters of labels under a heat map from which on they are turned."""
MOST_WIDE_CELLS = 6
WIDTH = 4.0
"""Of every figure, in inches."""
PNG_DPI = 200
INLINE = {INK: "currentColor", MUTED: "var(--muted)", PAPER: "none"} | {
    colour: f"var(--c{index})" for index, colour in enumerate(SERIES)
}
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "legend.frameon": False,
    "savefig.facecolor": PAPER,
}


@dataclass(frozen=True)
class Drawing:
    """A finished figure and what it shows in words."""

    name: str
    alt: str
    svg: str
    png: bytes
    kind: str = "figure"

    @property
    def inline(self) -> str:
        """Markup for the page: no fixed size, unique ids, the page's colours."""
        body = self.svg[self.svg.index("<svg") :]
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
        body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
        body = re.sub(r'\bid="', f'id="{self.name}-', body)
        body = re.sub(r'href="#', f'href="#{self.name}-', body)
        body = body.replace("url(#", f"url(#{self.name}-")
        for colour, variable in INLINE.items():
            body = body.replace(colour, variable)
        return body.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Runs a figure function under the report's style, whatever the caller's matplotlib settings are."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inner


def canvas(
    width: float, height: float, *, rows: list[float] | None = None, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure in inches with axes of the given relative heights, row by row; those of one column share their x."""
    figure = Figure(figsize=(width, height), layout="constrained")
    ratios = rows or [1.0]
    shared = len(ratios) > 1 and columns == 1
    axes = figure.subplots(len(ratios), columns, squeeze=False, sharex=shared, height_ratios=ratios)
    return figure, list(axes.flat)


def finish(figure: Figure, name: str, alt: str) -> Drawing:
    """Renders to SVG and PNG."""
    safe = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    stream, pixels = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": safe}), warnings.catch_warnings():
        # Letters of other scripts are not in matplotlib's own font; the browser has them, as text stays text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # laid out already
        figure.savefig(pixels, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return Drawing(safe, alt, stream.getvalue(), pixels.getvalue())


def error_bars(leaves: Sequence[dict[str, Any]]) -> list[list[float]]:
    """In percent, the distances from each value to both ends of its interval; none where there is no interval."""
    ends = [leaf["ci95"] or (leaf["value"], leaf["value"]) for leaf in leaves]
    pairs = list(zip(leaves, ends, strict=True))
    return [
        [max(0.0, 100 * (float(leaf["value"]) - low)) for leaf, (low, _) in pairs],
        [max(0.0, 100 * (high - float(leaf["value"]))) for leaf, (_, high) in pairs],
    ]


def cut(label: str) -> str:
    """A label that leaves room for the figure."""
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def membership(axes: Axes, sets: list[list[str]], encoders: list[str]) -> None:
    """The dot matrix of an UpSet plot: who is in which set, a column each."""
    rows = [[encoders.index(alias) for alias in members] for members in sets]
    every = [(x, y) for x in range(len(sets)) for y in range(len(encoders))]
    present = [(x, y) for x, members in enumerate(rows) for y in members]
    for points, size, colour, alpha in ((every, 13, MUTED, 0.22), (present, 17, INK, 1.0)):
        axes.scatter([x for x, _ in points], [y for _, y in points], s=size, color=colour, alpha=alpha, lw=0)
    joined = [(x, members) for x, members in enumerate(rows) if len(members) > 1]
    axes.vlines(
        [x for x, _ in joined], [min(m) for _, m in joined], [max(m) for _, m in joined], color=INK, lw=1
    )
    axes.set_yticks(range(len(encoders)), [cut(alias) for alias in encoders])
    axes.set_ylim(len(encoders) - 0.4, -0.6)
    axes.tick_params(length=0, labelbottom=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def heatmap(
    axes: Axes, values: list[list[int | float | None]], rows: list[str], columns: list[str], *, unit: str
) -> None:
    """Signed cells with their numbers: blue for positive, orange for negative, stronger for larger.

    Colours are transparent so that ink stays legible on light and dark paper; None leaves a cell empty.
    """
    largest = max((abs(v) for line in values for v in line if v is not None), default=0.0) or 1.0
    digits = 2 if unit == "" else 1
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value is None:
                continue
            colour = SERIES[0] if value >= 0 else SERIES[1]
            strength = 0.4 * abs(value) / largest
            axes.fill_between(
                [x - 0.48, x + 0.48], y - 0.47, y + 0.47, color=colour, alpha=strength, linewidth=0
            )
            text = f"{value:.{digits}f}"
            text = f"{0:.{digits}f}" if float(text) == 0 else text
            size = 9 if len(columns) <= MOST_WIDE_CELLS else 6.5
            axes.text(x, y, text.replace("-", "−"), ha="center", va="center", fontsize=size)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    crowded = sum(map(len, columns)) > CROWDED
    axes.set_xticks(range(len(columns)), [cut(label) for label in columns])
    if crowded:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [cut(label) for label in rows])
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
