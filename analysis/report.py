"""The complementarity report: results.json, one self-contained HTML page, Markdown and figures.

Handed a run folder; hands on four kinds of files in it, each written whole or not at all. The page needs no
network: styles, figures, pictures and the small script that sorts tables and saves them as CSV are inline. All
strings are escaped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.blocks import Cell, Example, Page
from analysis.drawing import Drawing
from analysis.pictures import Pictures
from analysis.results import NUM_RESAMPLES, assemble, write_atomically, write_results
from analysis.run_files import image_folders
from analysis.sections import run_page
from analysis.words import short

MARKDOWN_SPECIAL = "\\`*_{}[]<>|#~$"


@dataclass(frozen=True)
class Report:
    """What was written, and the results that were written about."""

    results: dict[str, Any]
    json: Path
    html: Path
    markdown: Path
    figures: Path


def write_report(
    run_folder: Path | str,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    images: Mapping[str, Path] | None = None,
) -> Report:
    """Computes the statistics of a run and writes everything that shows them.

    Args:
        images: folders of tasks' images, where they are not where the run found them.

    Raises:
        RunFolderError: the folder is not that of a finished run; nothing is written then.
    """
    folder = Path(run_folder)
    results = assemble(folder, num_resamples=num_resamples, seed=seed)
    written = write_results(folder, results)
    return render(folder, results, written, images=images)


def render(
    folder: Path, results: dict[str, Any], written: Path, *, images: Mapping[str, Path] | None = None
) -> Report:
    """Writes page, Markdown and figures for results that are already computed."""
    pictures = Pictures({**image_folders(folder), **(images or {})})
    html, markdown = write_page(folder, "report", run_page(results), pictures)
    return Report(results, written, html, markdown, folder / "figures")


def write_page(folder: Path, name: str, page: Page, pictures: Pictures) -> tuple[Path, Path]:
    """Writes a page as HTML and Markdown under that name, and its figures into `figures/`."""
    for drawing in page.drawings:
        write_atomically(folder / "figures" / f"{drawing.name}.svg", drawing.svg)
        write_atomically(folder / "figures" / f"{drawing.name}.png", drawing.png)
    html = write_atomically(folder / f"{name}.html", _render("report.html.j2", page, pictures))
    return html, write_atomically(folder / f"{name}.md", _render("report.md.j2", page, pictures))


def _render(template: str, page: Page, pictures: Pictures) -> str:
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=not template.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_markdown if template.endswith(".md.j2") else None,
    )

    def picture(example: Example) -> Markup | None:
        """A picture as an address that holds it; of base64 letters alone."""
        found = pictures.get(example.task, example.image)
        return None if found is None else Markup(f"data:image/jpeg;base64,{base64.b64encode(found).decode()}")  # noqa: S704

    environment.filters.update(inline=_inline, file=_file, picture=picture, short=short, width_class=_width_class)
    return environment.get_template(template).render(page=page)


def _inline(drawing: Drawing) -> Markup:
    """An SVG of our own making; matplotlib has escaped the strings in it."""
    return Markup(drawing.inline)  # noqa: S704


def _width_class(cell: Cell, longest_line: int = 28) -> Markup:
    """How a cell takes room: short ones stay on one line, longer ones get a width that keeps their rows low."""
    length = len(cell.text)
    return Markup("n" if length < longest_line else "w" if length < 60 else "x")  # noqa: S704


def _file(name: str) -> Markup:
    """A file name of letters, digits, `-` and `_` alone."""
    return Markup(re.sub(r"[^a-zA-Z0-9_-]", "_", name))  # noqa: S704


def _markdown(value: object) -> object:
    """Escapes what Markdown or HTML would read as markup; applied to every expression of the template."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    escaped = "".join(f"\\{letter}" if letter in MARKDOWN_SPECIAL else letter for letter in value)
    return escaped.replace("&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\n", " ")
