"""The real command on a small world: a whole run, a second call, another seed, and every kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from schemas import validate

from experiments.world.build import build_world

ROOT = Path(__file__).parent.parent
SMALL = ["world_scale=0.02", "train.steps=6", "train.blind_steps=4", "train.batch_size=24", "evaluate.rerank=4"]


def command(folder: Path, *arguments: str, settings: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m experiments.combine` with its own runs and cache, from the source tree."""
    places = ["--runs", str(folder / "runs"), "--cache", str(folder / "cache"), "--device", "cpu"]
    chosen = ["--set", *(SMALL if settings is None else settings)]
    line = [sys.executable, "-m", "experiments.combine", *places, *arguments, *chosen]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> subprocess.CompletedProcess[str]:
    return command(home)


def results(home: Path, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "runs" / run / "results.json").read_text())
    return found


def test_the_command_writes_a_valid_and_complete_run(home: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stderr[-2000:]
    found = results(home, "demo-seed0")
    validate("results", found)
    assert list(found["tasks"]) == ["flickr30k", "coco", "vqa", "gqa", "snli_ve", "hateful_memes"]
    for task in found["tasks"].values():
        assert len([c for c in task["coalitions"] if c["mode"] == "masked"]) == 16
        assert {"blind", "shuffled"} <= set(task["controls"])
    folder = home / "runs" / "demo-seed0"
    assert (folder / "report.html").stat().st_size > 10_000 and (folder / "report.md").exists()
    assert not list(folder.rglob(".tmp-*"))
    assert "report.html" in first.stdout and "Dropping one encoder" in first.stdout


def test_answers_have_the_documented_columns(home: Path, first: subprocess.CompletedProcess[str]) -> None:
    table = pq.read_table(home / "runs/demo-seed0/answers/gqa.0.masked.drop.vit+clip.parquet")
    documented = (
        "task split seed mode removal coalition id image direction prediction target score probability logprob rank"
    )
    assert table.column_names[: len(documented.split())] == documented.split()
    assert set(table["coalition"].to_pylist()) == {"vit+clip"} and "slice_factor" in table.column_names


def test_a_second_call_does_nothing_twice_and_the_same_seed_gives_the_same(
    home: Path, first: subprocess.CompletedProcess[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (home / "runs/demo-seed0/answers").iterdir()}
    values = results(home, "demo-seed0")["tasks"]
    started = time.perf_counter()
    again = command(home)
    assert again.returncode == 0 and time.perf_counter() - started < 90
    assert {path: path.stat().st_mtime_ns for path in (home / "runs/demo-seed0/answers").iterdir()} == before
    assert results(home, "demo-seed0")["tasks"] == values
    assert "training" not in again.stderr and "features" not in again.stderr

    twin = command(home, "--run", "twin", "--tasks", "gqa", "hateful_memes")
    other = command(home, "--run", "other", "--tasks", "gqa", "hateful_memes", "--seeds", "1")
    repeat = command(home, "--run", "repeat", "--tasks", "gqa", "hateful_memes")
    assert twin.returncode == other.returncode == repeat.returncode == 0, other.stderr[-2000:]
    assert results(home, "twin")["tasks"] == results(home, "repeat")["tasks"]
    probabilities = [
        pq.read_table(home / f"runs/{run}/answers/gqa.{seed}.masked.drop.vit.parquet")["probability"].to_pylist()
        for run, seed in (("twin", 0), ("other", 1))
    ]
    assert probabilities[0] != probabilities[1]


def test_full_controls_and_other_removals_are_cells_like_any_other(
    home: Path, first: subprocess.CompletedProcess[str]
) -> None:
    encoders = ["--encoders", *(f"{name}=demo:{name}" for name in ("vit", "clip", "dino"))]
    asked = ["--run", "full", "--tasks", "gqa", "flickr30k", "--controls", "full", "--coalitions", "both", *encoders]
    settings = [*SMALL, "train.steps=3", 'evaluate.removals=["zero","mean","permuted"]']
    done = command(home, *asked, settings=settings)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = home / "runs" / "full"
    tables = [pq.read_table(path) for path in sorted((folder / "answers").iterdir())]
    found = {
        tuple(table[key][0].as_py() for key in ("task", "split", "mode", "removal", "coalition")) for table in tables
    }
    for task in ("gqa", "flickr30k"):
        best = {c for t, s, m, _, c in found if (t, s, m) == (task, "test", "duplicate")}
        assert len(best) == 1 and best <= {"vit", "clip", "dino"}
        for mode in ("seeds", "matched"):
            assert {c for t, _, m, _, c in found if (t, m) == (task, mode)} == best
        assert (task, "test", "averaged", "drop", "vit+clip+dino") in found
        coalitions = {"vit", "clip", "dino", "vit+clip", "vit+dino", "clip+dino", "vit+clip+dino"}
        assert {c for t, s, m, _, c in found if (t, s, m) == (task, "test", "retrained")} == coalitions
        for removal in ("zero", "mean", "permuted"):
            removed = {c for t, _, m, r, c in found if (t, m, r) == (task, "masked", removal)}
            assert removed - {""} == coalitions - {"vit+clip+dino"}
    sizes: dict[str, set[int]] = {}
    for table in tables:
        if table["split"][0].as_py() == "test" and table["mode"][0].as_py() != "reranked":
            sizes.setdefault(table["task"][0].as_py(), set()).add(table.num_rows)
    assert all(len(numbers) == 1 for numbers in sizes.values())  # every cell answers the same examples
    records = {path.stem: json.loads(path.read_text()) for path in (folder / "train").glob("*.json")}
    masked = records["joint-masked-0"]
    for kind in ("duplicate", "seeds", "matched"):
        for record in (r for r in records.values() if r["kind"] == kind):
            assert record["inputs"] == [f"{record['of']}_{number}" for number in (1, 2, 3)]
            assert record["parameters"] == masked["parameters"] and record["steps"] == masked["steps"]
            assert abs(record["tokens"] - masked["tokens"]) <= 0.05 * masked["tokens"]
    again = command(home, *asked, settings=settings)
    assert again.returncode == 0 and "training" not in again.stderr
    validate("results", results(home, "full"))


def test_the_table_removes_encoders_as_training_did(home: Path, first: subprocess.CompletedProcess[str]) -> None:
    asked = ["--run", "filled", "--tasks", "gqa", "flickr30k", "--encoders", "vit=demo:vit", "dino=demo:dino"]
    settings = [*SMALL, "train.fill=mean", 'evaluate.removals=["drop","mean"]', "evaluate.limit=200"]
    done = command(home, *asked, settings=settings)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = home / "runs" / "filled" / "answers"
    found = {tuple(path.name.split(".")[2:5]) for path in answers.glob("gqa.0.masked.*.parquet")}
    assert found >= {("masked", "mean", name) for name in ("none", "vit", "dino", "vit+dino")}
    assert found >= {("masked", "drop", name) for name in ("none", "vit", "dino")}
    assert ("masked", "drop", "vit+dino") not in found
    filled, dropped = (pq.read_table(answers / f"gqa.0.masked.{way}.vit.parquet") for way in ("mean", "drop"))
    assert filled["logprob"].to_pylist() != dropped["logprob"].to_pylist()
    written = results(home, "filled")
    validate("results", written)
    for task in written["tasks"].values():
        assert {entry["removal"] for entry in task["coalitions"]} == {"mean"}
        assert task["sensitivity"]["mean"] == {"not_run": "the table itself removes encoders so"}
        assert "not_run" not in task["sensitivity"]["drop"]
        assert "value" in task["best_single"]
    page = (home / "runs" / "filled" / "report.md").read_text()
    assert "mean over training images" in page and "rank correlation with means" in page and "dropping" in page


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["--encoders", "clip=demo:clop"], SMALL, "clip"),
        (["--encoders", "a=demo:vit", "a=demo:clip"], SMALL, "a"),
        (["--tasks", "gqq"], SMALL, "did you mean 'gqa'"),
        (["--preset", "demoo"], SMALL, "did you mean 'demo'"),
        ([], ["train.stepz=3"], "did you mean 'steps'"),
        ([], ["train.steps=many"], "train.steps"),
        ([], ["train.ve_dropout=1.5"], "between 0 and 1"),
        (["--fusion", "concatt"], SMALL, "did you mean 'concat'"),
        (["--data", "/nowhere"], SMALL, "/nowhere is not a folder"),
        (["--config", "/nowhere.json"], SMALL, "no such file"),
        (["--images", "gqa"], SMALL, "TASK=FOLDER"),
        (["--tasks", "coco"], ["task_options.coco.negatives=alternat"], "'alternate'"),
        (["--coalitions", "retrained"], ['evaluate.removals=["mean"]'], "nearest: coalitions=both"),
    ],
)
def test_bad_input_gets_one_line(tmp_path: Path, arguments: list[str], settings: list[str], said: str) -> None:
    done = command(tmp_path, *arguments, settings=settings)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode != 0 and len(lines) == 1 and said in lines[0], done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "--encoderz", "vit")
    assert done.returncode == 2 and not (tmp_path / "runs").exists()
    assert len(done.stderr.splitlines()) == 1 and "--encoderz" in done.stderr
    assert "did you mean '--encoders'" in done.stderr


@pytest.mark.parametrize("damage", ["missing", "truncated", "shape"])
def test_a_damaged_dataset_is_refused_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    data = build_world(tmp_path / "data", seed=1, scale=0.005, workers=1)
    image = sorted((data / "gqa/images").iterdir())[0]
    questions = data / "gqa/questions1.2/train_balanced_questions.json"
    if damage == "missing":
        image.unlink()
    elif damage == "truncated":
        image.write_bytes(image.read_bytes()[:1500])
    else:
        questions.write_text(json.dumps([{"question": "what?"}]))
    done = command(tmp_path, "--data", str(data), "--tasks", "gqa")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    named = questions.name if damage == "shape" else image.name
    assert done.returncode == 1 and len(errors) == 1 and named in errors[0], done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "runs").exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors")) if (tmp_path / "cache").exists() else True


def test_help_is_immediate_and_imports_no_torch() -> None:
    for module in ("combine", "compare_operators", "world", "extract", "report", "train_demo_encoders"):
        entry = f"experiments.{module}{'.__main__' if module == 'world' else ''}"
        code = f"import sys, {entry}; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
        shown = subprocess.run(
            [sys.executable, "-m", f"experiments.{module}", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert shown.returncode == 0 and "usage: python -m experiments" in shown.stdout
