"""Cells of a run folder: one Parquet file each, complete or absent.

A cell is (task, split, seed, mode, removal, coalition); its file's name says so, its rows are the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from encoders.durable import write_whole
from fusion.types import Coalition, coalition_name
from tasks.base import Answer, Example

Removal = Literal["drop", "zero", "mean", "permuted"]
TYPES: dict[str, Any] = {
    "task": pa.string(),
    "split": pa.string(),
    "seed": pa.int64(),
    "mode": pa.string(),
    "removal": pa.string(),
    "coalition": pa.string(),
    "id": pa.string(),
    "image": pa.string(),
    "direction": pa.string(),
    "prediction": pa.string(),
    "target": pa.string(),
    "score": pa.float64(),
    "probability": pa.float64(),
    "logprob": pa.float64(),
    "rank": pa.int64(),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one file of answers is about."""

    task: str
    seed: int
    coalition: Coalition
    mode: str = "masked"
    removal: Removal = "drop"
    split: str = "test"

    @property
    def file(self) -> str:
        """The file's name."""
        name = f"{self.task}.{self.seed}.{self.mode}.{self.removal}.{coalition_name(self.coalition) or 'none'}"
        return f"{name}.select.parquet" if self.split == "select" else f"{name}.parquet"

    def write(self, folder: Path, answers: Sequence[Answer]) -> None:
        """Writes the cell's answers under a temporary name and renames the file."""
        slices = sorted({key for answer in answers for key in answer.slices})
        head = {
            "task": self.task,
            "split": self.split,
            "seed": self.seed,
            "mode": self.mode,
            "removal": self.removal,
            "coalition": coalition_name(self.coalition),
        }
        columns: dict[str, Any] = {key: [value] * len(answers) for key, value in head.items()}
        for key in list(TYPES)[len(head) :]:
            columns[key] = [getattr(answer, key) for answer in answers]
        arrays = {key: pa.array(columns[key], TYPES[key]) for key in TYPES}
        for key in slices:
            arrays[f"slice_{key}"] = pa.array([answer.slices.get(key) for answer in answers], pa.string())
        write_table(pa.table(arrays), folder / "answers" / self.file)

    def exists(self, folder: Path) -> bool:
        """Whether the run folder has the cell."""
        return (folder / "answers" / self.file).exists()


def read_answers(folder: Path, cell: Cell) -> list[Answer]:
    """The answers that `cell.write` stored."""
    rows = pq.read_table(folder / "answers" / cell.file).to_pylist()
    names = [item.name for item in fields(Answer) if item.name != "slices"]
    return [
        Answer(
            **{name: row[name] for name in names},
            slices={
                key.removeprefix("slice_"): value
                for key, value in row.items()
                if key.startswith("slice_") and value is not None
            },
        )
        for row in rows
    ]


def write_table(table: Any, path: Path) -> None:
    """A Parquet file, complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda handle: pq.write_table(table, handle))


def write_examples(folder: Path, rows: Sequence[tuple[str, str, Example]]) -> None:
    """`examples.parquet`: task, split, id, image, text, target of everything that was evaluated."""
    target = [" | ".join(e.target) if isinstance(e.target, tuple) else e.target for _, _, e in rows]
    columns = {
        "task": [task for task, _, _ in rows],
        "split": [split for _, split, _ in rows],
        "id": [e.id for _, _, e in rows],
        "image": [e.image for _, _, e in rows],
        "text": [e.text for _, _, e in rows],
        "target": target,
    }
    write_table(
        pa.table({key: pa.array(values, pa.string()) for key, values in columns.items()}),
        folder / "examples.parquet",
    )
