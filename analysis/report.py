"""The complementarity report: results.json, one self-contained HTML page, Markdown and figures.

Handed a run folder; hands on four kinds of files in it, each written whole or not at all. The page needs no
network: styles, figures and the small script that sorts tables and saves them as CSV are inline. All
strings are escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.drawing import Drawing
from analysis.results import NUM_RESAMPLES, assemble, write_atomically, write_results
from analysis.sections import Section, sections, verdicts

MARKDOWN_SPECIAL = "\\`*_{}[]<>|#~$"


@dataclass(frozen=True)
class Report:
    """What was written, and the results that were written about."""

    results: dict[str, Any]
    json: Path
    html: Path
    markdown: Path
    figures: Path


def write_report(run_folder: Path | str, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Report:
    """Computes the statistics of a run and writes everything that shows them.

    Raises:
        RunFolderError: the folder is not that of a finished run; nothing is written then.
    """
    folder = Path(run_folder)
    results = assemble(folder, num_resamples=num_resamples, seed=seed)
    written = write_results(folder, results)
    return render(folder, results, written)


def render(folder: Path, results: dict[str, Any], written: Path) -> Report:
    """Writes page, Markdown and figures for results that are already computed."""
    parts = sections(results)
    for drawing in drawings(parts):
        write_atomically(folder / "figures" / f"{drawing.name}.svg", drawing.svg)
    html = write_atomically(folder / "report.html", _render("report.html.j2", results, parts))
    markdown = write_atomically(folder / "report.md", _render("report.md.j2", results, parts))
    return Report(results, written, html, markdown, folder / "figures")


def drawings(parts: list[Section]) -> list[Drawing]:
    """All figures of the report."""
    return [b for part in parts for group in part.groups for b in group.blocks if isinstance(b, Drawing)]


def _render(template: str, results: dict[str, Any], parts: list[Section]) -> str:
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=not template.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_markdown if template.endswith(".md.j2") else None,
    )
    environment.filters["inline"] = _inline
    environment.filters["file"] = _file
    return environment.get_template(template).render(
        results=results, sections=parts, verdicts=verdicts(results)
    )


def _inline(drawing: Drawing) -> Markup:
    """An SVG of our own making; matplotlib has escaped the strings in it."""
    return Markup(drawing.inline)  # noqa: S704


def _file(drawing: Drawing) -> Markup:
    """A figure's file name, of letters, digits, `-` and `_` alone."""
    return Markup(f"{drawing.name}.svg")  # noqa: S704


def _markdown(value: object) -> object:
    """Escapes what Markdown or HTML would read as markup; applied to every expression of the template."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    escaped = "".join(f"\\{letter}" if letter in MARKDOWN_SPECIAL else letter for letter in value)
    return escaped.replace("&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\n", " ")
