"""Writing a dataset folder: pictures from scenes on several processes, JSON with fixed order and spacing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from experiments.world.renderer import jpeg_bytes, render
from experiments.world.scene import Scene

CHUNK = 100


def write_pictures(folder: Path, named: Sequence[tuple[str, Scene]], *, pool: Executor) -> None:
    """Paints each scene into `folder / name`."""
    for parent in {(folder / name).parent for name, _ in named}:
        parent.mkdir(parents=True, exist_ok=True)
    chunks = [[(folder / name, scene) for name, scene in named[k : k + CHUNK]] for k in range(0, len(named), CHUNK)]
    with tqdm(total=len(named), unit="img", desc=f"rendering {folder.name.strip('.').split('.')[0]}") as bar:
        for done in pool.map(_write_chunk, chunks):
            bar.update(done)


def _write_chunk(chunk: list[tuple[Path, Scene]]) -> int:
    for path, scene in chunk:
        image = render(scene)
        if path.suffix == ".png":
            image.save(path)
        else:
            path.write_bytes(jpeg_bytes(image))
    return len(chunk)


def write_json(path: Path, content: Any) -> None:
    """One JSON document; the same content gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def write_json_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One JSON document a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
