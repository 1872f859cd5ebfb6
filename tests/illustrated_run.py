"""A synthetic run with what a report shows of examples: their texts and small images, under names of one's choice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from synthetic_run import write_run


def illustrated_run(
    folder: Path, *, tasks: Sequence[str], num_rows: int, strings: str = "", text: str = "what is this?"
) -> Path:
    """Writes the run, `examples.parquet`, an image for every example, and `images.json`."""
    write_run(folder, tasks=tasks, num_rows=num_rows, strings=strings)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shown = {"run": strings or config["run"], "note": strings}
    (folder / "config.json").write_text(json.dumps(config | shown), encoding="utf-8")
    pictures = folder / "pictures"
    (pictures / "images").mkdir(parents=True)
    rows = [
        {
            "task": task,
            "split": "test",
            "id": f"{strings}{row}",
            "image": f"images/{row // 2}.jpg",
            "text": f"{text} {row}",
            "target": None,
        }
        for task in tasks
        for row in range(num_rows)
    ]
    for number in range(num_rows // 2):
        Image.new("RGB", (200, 120), (number % 256, 90, 160)).save(pictures / "images" / f"{number}.jpg")
    pq.write_table(pa.Table.from_pylist(rows), folder / "examples.parquet")
    (folder / "images.json").write_text(json.dumps(dict.fromkeys(tasks, str(pictures))))
    return folder
