"""The wheel carries everything: it is built, installed outside the clone, and the main command runs from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"fusion", "encoders", "tasks", "analysis", "experiments"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone, so that nothing comes along by accident."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*pip, "-w", str(out), str(source)], check=True, timeout=300)
    return next(out.glob("*.whl"))


def test_it_holds_the_five_rooms_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == ROOMS
    for needed in (
        "encoders/demo/vit/model.safetensors",
        "encoders/demo/clip/open_clip_model.safetensors",
        "encoders/demo/clip/tokenizer.json",
        "fusion/demo_text/model.safetensors",
        "fusion/demo_text/tokenizer.json",
        "analysis/results.schema.json",
        "analysis/leaderboard.schema.json",
        "analysis/templates/report.html.j2",
        "analysis/templates/report.css",
        "analysis/templates/report.js",
    ):
        assert needed in names, needed


def test_it_runs_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    line = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(installed), str(wheel)]
    subprocess.run(line, check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = subprocess.run(
        [sys.executable, "-c", "import fusion; print(fusion.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed))
    small = ["world_scale=0.01", "train.steps=2", "train.blind_steps=2", "train.batch_size=12", "evaluate.rerank=2"]
    run = [sys.executable, "-m", "experiments.combine", "--tasks", "snli_ve", "--device", "cpu", "--set", *small]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs/demo-seed0/report.html").exists()
