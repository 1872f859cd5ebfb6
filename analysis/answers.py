"""The table of answers: what every model said about every example.

Handed `answers/*.parquet` of a run folder, one file per cell; hands on, per task, rows that are shared by
all cells (ids, image clusters, slices) and one set of aligned arrays per seed, mode, removal and coalition.
Files are read one after another and only the columns that statistics need are kept. A table that is not
complete is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from jaxtyping import Bool, Float, Int

from analysis.errors import AnswersError

SELECT_SPLIT = "select"
KEY_COLUMNS = ("task", "split", "seed", "mode", "removal", "coalition")
ROW_COLUMNS = ("id", "image", "direction", "prediction", "target", "score", "probability", "logprob", "rank")
SLICE_PREFIX = "slice_"


class CellName(NamedTuple):
    """What was asked of a model: how it was trained or fed, how encoders were removed, which were present."""

    mode: str
    removal: str
    coalition: str

    def __str__(self) -> str:
        return f"{self.mode}/{self.removal}/{self.coalition or '(none)'}"


@dataclass(frozen=True, slots=True)
class Rows:
    """What all cells of a task share; `n` rows, sorted by direction and id.

    `clusters` numbers the images from 0, so that questions about one image are resampled together.
    """

    ids: np.ndarray
    directions: np.ndarray
    targets: np.ndarray
    images: np.ndarray
    clusters: Int[np.ndarray, " n"]
    slices: Mapping[str, np.ndarray]

    @property
    def num_clusters(self) -> int:
        """How many different images there are."""
        return int(self.clusters.max()) + 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One model's answers, aligned with `Rows`; NaN where the file has null (rank: -1).

    Predictions are numbers of strings in `TaskAnswers.vocabulary`.
    """

    score: Float[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    logprob: Float[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    prediction: Int[np.ndarray, " n"]


@dataclass(slots=True)
class TaskAnswers:
    """All cells of one task on one split."""

    task: str
    split: str
    rows: Rows
    cells: dict[int, dict[CellName, Cell]] = field(default_factory=dict)
    vocabulary: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, string: str) -> int:
        """The number of a prediction, new where it is seen for the first time."""
        if string not in self.numbers:
            self.numbers[string] = len(self.vocabulary)
            self.vocabulary.append(string)
        return self.numbers[string]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in ascending order."""
        return tuple(sorted(self.cells))

    def across_seeds(self, name: CellName) -> list[Cell] | None:
        """The cell under every seed, or None where any seed lacks it."""
        found = [self.cells[seed].get(name) for seed in self.seeds]
        return [cell for cell in found if cell is not None] if all(found) else None

    def find(self, mode: str, coalition: str) -> CellName | None:
        """The name of a cell by mode and coalition, `drop` before other removals; None where no seed has
        it."""
        names = {name for cells in self.cells.values() for name in cells}
        matching = sorted(name for name in names if (name.mode, name.coalition) == (mode, coalition))
        return min(matching, key=lambda name: name.removal != "drop", default=None)

    @property
    def modes(self) -> tuple[str, ...]:
        """Every mode of which there is a cell."""
        return tuple(sorted({name.mode for cells in self.cells.values() for name in cells}))

    def require(self, names: Sequence[CellName]) -> None:
        """Refuses a table that lacks one of the cells under some seed.

        Raises:
            AnswersError: names task, seed and each missing coalition.
        """
        for seed in self.seeds:
            missing = [name.coalition or "(none)" for name in names if name not in self.cells[seed]]
            if missing:
                have = len(names) - len(missing)
                raise AnswersError(
                    f"task {self.task!r}, seed {seed}: {len(missing)} of {len(names)} {names[0].mode} "
                    f"coalitions have no answers ({', '.join(missing)}); {have} are "
                    "stored. Finish the run, then report again."
                )


@dataclass(frozen=True, slots=True)
class RunAnswers:
    """The whole table: the evaluated split of each task, and the split on which choices are made."""

    evaluation: Mapping[str, TaskAnswers]
    selection: Mapping[str, TaskAnswers]


def load_answers(run_folder: Path) -> RunAnswers:
    """Reads every cell of a run.

    Args:
        run_folder: the folder that holds `answers/`.

    Raises:
        AnswersError: no answers, a file that is no cell, ids that differ between cells of a task, one cell
        twice.
    """
    files = sorted((run_folder / "answers").glob("*.parquet"))
    if not files:
        raise AnswersError(f"no answers in {run_folder / 'answers'}: expected one Parquet file per cell")
    tables: dict[tuple[str, str], TaskAnswers] = {}
    source: dict[tuple[object, ...], Path] = {}
    for path in files:
        content = _read(path)
        key = {column: _single(content, column, path) for column in KEY_COLUMNS}
        identity = tuple(key.values())
        if identity in source:
            raise AnswersError(
                f"{path.name} and {source[identity].name} hold the same cell {identity}: remove one"
            )
        source[identity] = path
        place = (str(key["task"]), str(key["split"]))
        order, rows = _rows(content, path, tables.get(place))
        table = tables.setdefault(place, TaskAnswers(place[0], place[1], rows))
        name = CellName(str(key["mode"]), str(key["removal"]), str(key["coalition"] or ""))
        table.cells.setdefault(int(str(key["seed"])), {})[name] = _cell(content, order, table)
    return _by_purpose(tables)


def _by_purpose(tables: Mapping[tuple[str, str], TaskAnswers]) -> RunAnswers:
    evaluation: dict[str, TaskAnswers] = {}
    selection: dict[str, TaskAnswers] = {}
    for (task, split), table in tables.items():
        if split == SELECT_SPLIT:
            selection[task] = table
        elif task in evaluation:
            raise AnswersError(
                f"task {task!r} has answers on two splits, {evaluation[task].split!r} and {split!r}: a run "
                f"evaluates one, and chooses on {SELECT_SPLIT!r}"
            )
        else:
            evaluation[task] = table
    return RunAnswers(evaluation, selection)


def _read(path: Path) -> pa.Table:
    try:
        content = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise AnswersError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]})") from error
    missing = [name for name in (*KEY_COLUMNS, *ROW_COLUMNS) if name not in content.column_names]
    if missing:
        raise AnswersError(f"{path} lacks the columns {', '.join(missing)}")
    if content.num_rows == 0:
        raise AnswersError(f"{path} holds no rows; a cell is complete or absent")
    return content


def _single(content: pa.Table, column: str, path: Path) -> object:
    values = pc.unique(content[column]).to_pylist()
    if len(values) != 1:
        raise AnswersError(
            f"{path} mixes {len(values)} values of {column!r} ({values[:3]}); one file is one cell"
        )
    value: object = values[0]
    return value


def _strings(content: pa.Table, column: str) -> np.ndarray:
    filled = pc.fill_null(pc.cast(content[column], pa.string()), "")
    values: np.ndarray = np.asarray(filled.to_pylist(), dtype=object)
    return values


def _rows(content: pa.Table, path: Path, table: TaskAnswers | None) -> tuple[np.ndarray, Rows]:
    """The order that sorts the file's rows, and the rows shared with earlier cells of the task."""
    ids, directions = _strings(content, "id"), _strings(content, "direction")
    order = np.lexsort((ids, directions))
    ids, directions, targets = ids[order], directions[order], _strings(content, "target")[order]
    same = (ids[1:] == ids[:-1]) & (directions[1:] == directions[:-1])
    if same.any():
        raise AnswersError(f"{path} answers id {str(ids[1:][same][0])!r} twice")
    if table is not None:
        _check_aligned(table.rows, ids, directions, targets, path)
        return order, table.rows
    images = _strings(content, "image")[order]
    if (images == "").any():
        raise AnswersError(f"{path} names no image for id {str(ids[images == ''][0])!r}: intervals resample images")
    slices = {
        name.removeprefix(SLICE_PREFIX): _strings(content, name)[order]
        for name in content.column_names
        if name.startswith(SLICE_PREFIX)
    }
    clusters = np.unique(images, return_inverse=True)[1].astype(np.int64)
    return order, Rows(ids, directions, targets, images, clusters, slices)


def _check_aligned(
    rows: Rows, ids: np.ndarray, directions: np.ndarray, targets: np.ndarray, path: Path
) -> None:
    mine, theirs = set(zip(directions, ids, strict=True)), set(zip(rows.directions, rows.ids, strict=True))
    if mine != theirs:
        extra, lacking = sorted(mine - theirs), sorted(theirs - mine)
        example = (extra or lacking)[0]
        raise AnswersError(
            f"{path} answers other examples than the task's first cell: {len(extra)} more and "
            f"{len(lacking)} fewer, for instance id {example[1]!r}"
        )
    differing = np.flatnonzero(rows.targets != targets)
    if differing.size:
        raise AnswersError(
            f"{path} has another target for id {ids[differing[0]]!r} than the task's first cell"
        )


def _floats(content: pa.Table, column: str, order: np.ndarray) -> np.ndarray:
    values = pc.fill_null(pc.cast(content[column], pa.float64()), float("nan"))
    numbers: np.ndarray = np.asarray(values.to_numpy(), dtype=np.float64)[order]
    return numbers


def _cell(content: pa.Table, order: np.ndarray, table: TaskAnswers) -> Cell:
    rank = _floats(content, "rank", order)
    correct = _strings(content, "prediction") == _strings(content, "target")
    filled = pc.fill_null(pc.cast(content["prediction"], pa.string()), "")
    encoded = pc.dictionary_encode(filled).combine_chunks()
    numbers = np.array([table.number(string) for string in encoded.dictionary.to_pylist()], dtype=np.int64)
    return Cell(
        score=_floats(content, "score", order),
        probability=_floats(content, "probability", order),
        logprob=_floats(content, "logprob", order),
        rank=np.where(np.isnan(rank), -1, rank).astype(np.int64),
        correct=np.asarray(correct, dtype=bool)[order],
        prediction=numbers[encoded.indices.to_numpy()][order],
    )
