"""What the examples said that a report shows: their texts, from `examples.parquet`.

Handed a run folder and the results of its tasks; adds `text` to every rescued or harmed example, and, where answers are
ids of captions, what those captions say. A run without that file, or with another one, costs the texts alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

LONGEST = 300
"""Letters of a text that are kept."""
ANSWERS = ("target", "with", "without")


def add_texts(run_folder: Path, tasks: dict[str, dict[str, Any]]) -> None:
    """Writes texts into the examples of all tasks, in place."""
    path = run_folder / "examples.parquet"
    if not path.exists():
        return
    for name, task in tasks.items():
        shown = list(_examples(task))
        texts = _texts(path, name, {string for example in shown for string in _ids(example)})
        for example in shown:
            if example["id"] in texts and example["direction"] != "i2t":
                example["text"] = texts[example["id"]]
            if example["direction"] == "i2t":
                example["captions"] = {
                    key: texts[example[key].split(" ")[0]] for key in ANSWERS if example[key].split(" ")[0] in texts
                }


def _examples(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "not_run" not in task["flips"]:
        for entry in task["flips"].values():
            yield from (*entry["rescued"], *entry["harmed"])


def _ids(example: dict[str, Any]) -> Iterator[str]:
    """Its own id, and the first of those that each answer names where it names captions."""
    yield example["id"]
    if example["direction"] == "i2t":
        yield from (example[key].split(" ")[0] for key in ANSWERS)


def _texts(path: Path, task: str, wanted: set[str]) -> dict[str, str]:
    """Text by id of the evaluated split; nothing where the file is not what it should be."""
    try:
        keep = (pc.field("task") == task) & (pc.field("split") == "test") & pc.field("id").isin(sorted(wanted))
        table = pq.read_table(path, columns=["id", "text"], filters=keep)
    except (pa.ArrowException, OSError):
        return {}
    pairs = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
    return {str(key): str(text)[:LONGEST] for key, text in pairs if text}
