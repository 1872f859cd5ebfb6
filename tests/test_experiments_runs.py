"""Runs as people ask for them: flags given twice, own tasks up to the report, more seeds and controls later."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from experiments.checks import check
from experiments.combine import configure, parser, run
from experiments.config import RunConfig, override
from experiments.errors import ConfigError
from experiments.presets import preset, with_recipes
from experiments.world.build import build_world

PAGE = Path(__file__).parent.parent / "docs" / "own_task.md"
ENCODERS = {"vit": "demo:vit", "clip": "demo:clip"}


def small(home: Path, **changes: Any) -> RunConfig:
    made = preset("tiny")
    train = replace(made.train, steps=2, blind_steps=None, batch_size=12, groups=2, trackers=())
    places = {"cache": str(home / "cache"), "runs": str(home / "runs"), "device": "cpu"}
    return replace(made, encoders=ENCODERS, train=train, **places, **changes)


def quiet(_: str) -> None:
    pass


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_flags_given_twice_add_up() -> None:
    line = "--preset tiny --tasks gqa --set train.steps=7 --tasks vqa --set train.blind_steps=3 --seeds 0 --seeds 1"
    found = configure(parser().parse_args(line.split()))
    assert (found.train.steps, found.train.blind_steps) == (7, 3)
    assert found.tasks == ("gqa", "vqa") and found.seeds == (0, 1)


def test_large_presets_need_data_and_give_own_tasks_a_recipe() -> None:
    with pytest.raises(ConfigError, match="preset 'base' has no data.*--data"):
        check(replace(preset("base"), encoders=ENCODERS))
    own = {"mine": "vqa", "pets": "classification"}
    base = replace(preset("base"), encoders=ENCODERS, data="data", tasks=("mine", "pets", "vqa"), own_tasks=own)
    found = check(with_recipes(base))
    assert found.train_of("mine") == found.train_of("vqa")
    pets = found.train_of("pets")
    assert 1e-5 <= pets.lr <= 5e-5 and pets.epochs == 10 and pets.lr_scale["heads"] == 10


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (32, 32), (20 * number, 255 - 20 * number, 90)).save(folder / f"{number}.png")


def records(kind: str, number: int, first: int) -> dict[str, object]:
    image = f"{number}.png"
    if kind == "questions":
        return {"image": image, "question": f"what is number {number}?", "answers": ["red", "blue"][number % 2 :][:1]}
    if kind == "classification":
        return {"id": f"{first}-{number}", "image": image, "text": f"look {number}", "label": "ab"[number % 2]}
    return {"image": image, "caption": f"a picture of {number}"}


@pytest.mark.parametrize("kind", ["questions", "classification", "pairs"])
def test_own_tasks_are_reported_as_the_others_are(tmp_path: Path, kind: str) -> None:
    for part, first in (("train", 0), ("val", 4), ("test", 8)):
        path = tmp_path / "data" / "mine" / f"{part}.jsonl"
        pictures(path.parent / "images", 12)
        rows = [records(kind, number, first) for number in range(first, first + 4)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = small(tmp_path, data=str(tmp_path / "data"), tasks=("mine",), own_tasks={"mine": kind}, run="own")
    found = results(run(check(asked), say=quiet))["tasks"]["mine"]
    assert len(found["coalitions"]) == 4 and found["n"] == (8 if kind == "pairs" else 4)
    if kind != "pairs":
        assert found["blind_steps"] == found["steps"] == 2


def test_the_task_of_the_docs_page_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    asked = small(tmp_path, data=".", tasks=("dots",), own_tasks={"dots": "counting.py"}, run="dots")
    folder = run(check(asked), say=quiet)
    task = results(folder)["tasks"]["dots"]
    assert task["metric"] == "closeness" and task["coalitions"][-1]["n"] == 3


def test_a_run_grows(tmp_path: Path) -> None:
    """One seed, then two, then all controls: what is there stays; anything else is another run."""
    data = build_world(tmp_path / "world", seed=2, scale=0.004)
    asked = small(tmp_path, data=str(data), tasks=("snli_ve",), seeds=(0,), run="grows")
    folder = run(check(asked), say=quiet)
    assert results(folder)["tasks"]["snli_ve"]["seeds"] == [0]
    before = {path: path.stat().st_mtime_ns for path in (folder / "train").glob("*.safetensors")}
    answers = {path: path.stat().st_mtime_ns for path in (folder / "answers").iterdir()}
    for more in ({"seeds": (0, 1)}, {"seeds": (0, 1), "controls": "full"}):
        run(check(replace(asked, **more)), say=quiet)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert {path: path.stat().st_mtime_ns for path in answers} == answers
    task = results(folder)["tasks"]["snli_ve"]
    assert task["seeds"] == [0, 1]
    [(missing, why)] = task["complementarity"]["missing"].items()  # there is no grid with twice the tokens
    assert missing == "matched" and "needs --controls" not in why
    for other in ({"seeds": (1, 0)}, {"seeds": (0,), "controls": "full"}, {"seeds": (0, 1)}):
        with pytest.raises(ConfigError, match="holds a run with other settings"):
            run(check(replace(asked, **other)), say=quiet)


def test_a_run_gets_another_task_and_another_removal(tmp_path: Path) -> None:
    data = build_world(tmp_path / "world", seed=2, scale=0.004)
    asked = small(tmp_path, data=str(data), tasks=("snli_ve",), controls="none", run="wider")
    folder = run(check(asked), say=quiet)
    before = {path: path.stat().st_mtime_ns for path in (folder / "answers").iterdir()}
    moved = tmp_path / "moved"
    data.rename(moved)
    wider = override(replace(asked, tasks=("snli_ve", "gqa"), data=str(moved)), ['evaluate.removals=["zero"]'])
    run(check(wider), say=quiet)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = results(folder)["tasks"]
    assert list(found) == ["snli_ve", "gqa"] and found["gqa"]["chance"] is not None
    assert {path.name.split(".")[3] for path in (folder / "answers").iterdir()} == {"drop", "zero"}
    tasks = pq.read_table(folder / "examples.parquet")["task"].unique().to_pylist()
    assert tasks == ["snli_ve", "gqa"]
    line = next(iter((moved / "gqa").rglob("*questions.json")))
    questions = json.loads(line.read_text())
    questions.pop(next(iter(questions)))
    line.write_text(json.dumps(questions))
    with pytest.raises(ConfigError, match="task gqa is no longer the one that"):
        run(check(wider), say=quiet)


def test_the_embedded_world_is_not_mistaken_for_the_datasets(tmp_path: Path) -> None:
    said: list[str] = []
    asked = small(tmp_path, tasks=("snli_ve",), seeds=(0,), controls="none", run="world", world_scale=0.004)
    folder = run(check(asked), say=said.append)
    assert "the embedded world" in said[0] and "not the datasets; --data names these" in said[1]
    for page in ("report.html", "report.md"):
        assert "rendered pictures and texts in the formats of the datasets, not the datasets" in re.sub(
            r"\s+", " ", (folder / page).read_text()
        )
