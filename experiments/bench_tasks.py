"""`python -m experiments.bench tasks`: reading question files of the official sizes, and recall over a large gallery.

These are seconds and bytes, not ratios: what a user waits for before anything starts. `tasks.bench` measures them.
"""

from __future__ import annotations

from pathlib import Path

from experiments.bench import Figure
from tasks.bench import bench


def run(folder: Path, *, images: int | None, rounds: int) -> list[Figure]:
    """Measures each once, in a process of its own; `images`, `rounds` and `folder` have no meaning here."""
    figures = []
    for found in bench():
        what = f"{found['part']}: {found['records']:,} records"
        figures.append(Figure(f"{what}, on one core", found["cpu_seconds"], "s", found["limit_seconds"]))
        figures.append(Figure(f"{what}, memory at its peak", found["peak_gb"], "GB", found["limit_gb"]))
    return figures
