"""How figures are drawn: matplotlib to SVG that follows the page's light or dark colours.

Handed an empty `Figure` by `canvas`, a figure function fills it; `Drawing` holds the finished SVG in two
forms: a stand-alone file on white, and inline markup whose ink, grid and series colours are the page's CSS
variables. Text stays text, ids are unique to the figure, and dates are left out so that the same numbers
give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
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
INLINE = {INK: "currentColor", MUTED: "var(--muted)", PAPER: "none"} | {
    colour: f"var(--c{index})" for index, colour in enumerate(SERIES)
}
STYLE: Any = {
    "font.size": 8.5,
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


def canvas(width: float, height: float, *, rows: list[float] | None = None) -> tuple[Figure, list[Axes]]:
    """A figure in inches with one column of axes of the given relative heights."""
    figure = Figure(figsize=(width, height), layout="constrained")
    ratios = rows or [1.0]
    axes = figure.subplots(len(ratios), 1, squeeze=False, sharex=len(ratios) > 1, height_ratios=ratios)
    return figure, [axes[row, 0] for row in range(len(ratios))]


def finish(figure: Figure, name: str, alt: str) -> Drawing:
    """Renders to SVG."""
    safe = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": safe}), warnings.catch_warnings():
        # Letters of other scripts are not in matplotlib's own font; the browser has them, as text stays text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(safe, alt, stream.getvalue())


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
            strength = 0.5 * abs(value) / largest
            axes.fill_between(
                [x - 0.48, x + 0.48], y - 0.47, y + 0.47, color=colour, alpha=strength, linewidth=0
            )
            text = f"{value:.{digits}f}"
            text = f"{0:.{digits}f}" if float(text) == 0 else text
            axes.text(x, y, text.replace("-", "−"), ha="center", va="center")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
