"""A finished run's models answer on any official split: as the run itself did, and where answers are not public."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from experiments.checks import check
from experiments.combine import run
from experiments.config import override
from experiments.errors import ConfigError
from experiments.predict import load_run_model, main, predict
from experiments.presets import preset
from experiments.world.build import build_world
from tasks import load_task

PAGE = Path(__file__).parent.parent / "docs" / "run_folder.md"
NAME = "v2_OpenEnded_mscoco_{}_questions.json"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a task with, and a task without, a gallery; with retrained models beside the masked ones."""
    home = tmp_path_factory.mktemp("home")
    build_world(home / "data", seed=2, scale=0.004)
    made = preset("tiny")
    train = replace(made.train, steps=2, batch_size=12, groups=2, trackers=(), fill="mean")
    places = {"data": str(home / "data"), "cache": str(home / "cache"), "runs": str(home / "runs"), "device": "cpu"}
    encoders = {"vit": "demo:vit", "clip": "demo:clip"}
    made = replace(made, encoders=encoders, train=train, tasks=("vqa", "flickr30k"), run="done", **places)  # type: ignore[arg-type]
    return run(check(replace(made, controls="none", task_options={"vqa": {"min_count": 1}})), say=lambda _: None)


@pytest.mark.parametrize("coalition", ["vit+clip", "clip", ""])
def test_answers_are_those_of_the_run(finished: Path, tmp_path: Path, coalition: str) -> None:
    said: list[str] = []
    out = tmp_path / "answers.json"
    line = [str(finished), "--task", "vqa", "--split", "val2014", "--out", str(out), "--device", "cpu"]
    assert main([*line, "--coalition", coalition], say=said.append) == 0
    cell = pq.read_table(finished / "answers" / f"vqa.0.masked.mean.{coalition or 'none'}.parquet").to_pylist()
    exported = load_task("vqa").predictions(out)
    assert {row["id"]: row["prediction"] for row in cell} == {key: one.text for key, one in exported.items()}
    score = sum(row["score"] for row in cell) / len(cell)
    assert f"{len(cell)} answers of vqa: masked, seed 0 on val2014 (vqa_accuracy {100 * score:.2f} %)" in said[0]


def test_a_split_without_public_answers_is_answered_too(finished: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished.parent.parent / "data", data)
    vqa = data / "vqa"
    content = json.loads(next(vqa.rglob(NAME.format("val2014"))).read_text())
    content["questions"] = content["questions"][:5]
    (vqa / NAME.format("test-dev2015")).write_text(json.dumps(content | {"data_subtype": "test-dev2015"}))
    (vqa / "test2015").mkdir()
    for question in content["questions"]:
        number = f"{question['image_id']:012d}.jpg"
        shutil.copy(next(data.rglob(f"COCO_val2014_{number}")), vqa / "test2015" / f"COCO_test2015_{number}")
    said: list[str] = []
    out = tmp_path / "answers.json"
    line = [str(finished), "--task", "vqa", "--split", "test-dev2015", "--out", str(out), "--data", str(data)]
    assert main([*line, "--images", str(vqa), "--device", "cpu"], say=said.append) == 0
    answered = json.loads(out.read_text())
    assert [one["question_id"] for one in answered] == [one["question_id"] for one in content["questions"]]
    assert said == [f"{out}: 5 answers of vqa: masked, seed 0 on test-dev2015 (its answers are not public)"]


def test_what_a_run_does_not_have_is_refused_by_name(finished: Path, tmp_path: Path) -> None:
    for changes, said in (
        ({"task": "gqa"}, "has no task 'gqa'; .*valid: vqa, flickr30k"),
        ({"task": "vqa", "coalition": ["vat"]}, "has no encoder 'vat'; did you mean 'vit'"),
        ({"task": "vqa", "seed": 3}, "has no seed 3; valid: 0"),
        ({"task": "flickr30k", "coalition": []}, "flickr30k ranks a gallery, which no model does without encoders"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_run_model(finished, **changes)  # type: ignore[arg-type]
    copied = tmp_path / "copied"
    shutil.copytree(finished, copied)
    (copied / "train" / "vqa-masked-0.safetensors").unlink()
    with pytest.raises(ConfigError, match="vqa-masked-0.safetensors is not there, or not finished"):
        load_run_model(copied, "vqa", device="cpu")
    config = json.loads((copied / "config.json").read_text())
    config["encoders"]["vit"] = "demo:vit?pool=2x2"
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="encoder vit is no longer the one"):
        load_run_model(copied, "vqa", device="cpu")


def test_a_folder_that_is_no_run_is_told_from_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="dnoe/config.json is missing: is dnoe the folder of a finished run.$"):
        load_run_model(Path("dnoe"), "vqa")
    for name in ("done", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").touch()
    for asked in ("runs/dnoe", "done"):
        assert main([asked, "--task", "vqa", "--split", "val2014", "--out", "answers.json"]) == 1
        said = f"{asked}/config.json is missing: is {asked} the folder of a finished run? did you mean 'runs/done'?"
        assert f"{said} valid: runs/done, runs/other" in capsys.readouterr().err
    assert main(["runs/done", "--task", "vqa", "--split", "val2014", "--out", "answers.json"]) == 1
    assert "runs/done/config.json is not JSON" in (said := capsys.readouterr().err) and "--config" not in said


def test_a_retrained_coalition_answers_with_its_own_model(finished: Path) -> None:
    home = finished.parent.parent
    made = replace(preset("tiny"), encoders={"vit": "demo:vit", "clip": "demo:clip"}, tasks=("vqa",), device="cpu")
    places = {"data": str(home / "data"), "cache": str(home / "cache"), "runs": str(home / "runs"), "run": "alone"}
    few = ["train.steps=2", "train.batch_size=12", "train.trackers=[]", "coalitions=retrained", "controls=none"]
    few.append("task_options.vqa.min_count=1")
    folder = run(check(override(replace(made, **places), few)), say=lambda _: None)  # type: ignore[arg-type]
    found = load_run_model(folder, "vqa", coalition=["clip"], device="cpu")
    assert found.job.of == ("clip",) and tuple(found.model.fusion.widths) == ("clip",)


def test_the_code_of_the_docs_page_runs(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    code = "\n".join(blocks).replace('Path("runs/first")', f"Path({str(finished)!r})")
    code = code.replace(".masked.drop.", ".masked.mean.")
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:4]] == ["none", "clip", "vit", "vit+clip"]
    accuracy = {line.split()[0]: float(line.split()[2]) for line in said[:4]}
    number, predicted, parameters = said[4].split()
    assert (int(number), float(predicted)) == (int(said[1].split()[1]), pytest.approx(accuracy["clip"]))
    assert int(parameters) > 1000 and said[5].startswith("torch.Size([1, ")


def test_the_docs_page_reads_recall_and_its_floor_as_the_report_does(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five captions an image: a mean over all queries is another number. No image, no cell: the floor is chance."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    code = code.replace('Path("runs/first")', f"Path({str(finished)!r})")
    code = code.replace("vqa.0.masked.drop.", "flickr30k.0.masked.mean.")
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102
    said = {name: float(value) for name, _, value in map(str.split, capsys.readouterr().out.splitlines())}
    task = json.loads((finished / "results.json").read_text())["tasks"]["flickr30k"]
    values = {"+".join(one["encoders"]): one for one in task["coalitions"]}
    chance = json.loads((finished / "baselines.json").read_text())["flickr30k"]["chance"]
    floor = values.pop("")
    assert (floor["value"], floor["by_definition"]) == (pytest.approx(chance, abs=1e-5), "chance")
    assert said == {name: pytest.approx(one["value"], abs=1e-5) for name, one in values.items()}


def test_times_in_the_provenance_are_said_to_be_of_one_call(finished: Path) -> None:
    """What an earlier call did is loaded in a second, which is not the time that it took."""
    page = (finished / "report.md").read_text().replace("\\", "")
    assert "environment.seconds_of_this_call.vqa: masked, seed 0" in page and "environment.seconds." not in page


def test_the_docs_page_names_every_file(finished: Path) -> None:
    listed = PAGE.read_text()
    for path in finished.iterdir():
        assert f"`{path.name}{'/' if path.name == 'figures' else ''}" in listed, path.name
    for column in pq.read_table(next((finished / "answers").iterdir())).column_names:
        assert f"`{column}`" in listed or column.startswith("slice_"), column
    for column in pq.read_table(finished / "attention.parquet").column_names:
        assert f"`{column}`" in listed, column


def test_a_model_answers_as_it_was_trained_where_images_were_left_out(finished: Path, tmp_path: Path) -> None:
    """Answers are numbered in the order in which training examples have them: the same must be left out."""
    data = tmp_path / "data"
    shutil.copytree(finished.parent.parent / "data", data)
    first = load_task("vqa", min_count=1).read(data / "vqa", "train")
    first.image_path(first.examples[0]).write_bytes(b"broken")
    made = replace(preset("tiny"), encoders={"vit": "demo:vit"}, tasks=("vqa",), device="cpu", undecodable="exclude")
    places = {"data": str(data), "cache": str(finished.parent.parent / "cache"), "runs": str(tmp_path), "run": "less"}
    few = ["train.steps=2", "train.batch_size=12", "train.trackers=[]", "controls=none", "task_options.vqa.min_count=1"]
    folder = run(check(override(replace(made, **places), few)), say=lambda _: None)  # type: ignore[arg-type]
    loaded = load_run_model(folder, "vqa", device="cpu")
    answers, _ = predict(loaded, "vqa", "test")
    cell = pq.read_table(folder / "answers" / "vqa.0.masked.drop.vit.parquet").to_pylist()
    assert [(row["id"], row["prediction"]) for row in cell] == [(one.id, one.prediction) for one in answers]
    kept = [example.id for example in loaded.data["vqa"].splits["train"].examples]
    assert first.examples[0].id not in kept and len(kept) < len(first.examples)
