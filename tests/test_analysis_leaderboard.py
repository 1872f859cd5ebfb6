"""Several runs side by side: differences are paired, corrected and worded by their interval; costs and fronts."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from schemas import validate
from synthetic_run import write_run

from analysis.fronts import cheapest_within, cost_of_coalition, front
from analysis.leaderboard import leaderboard, outcome
from analysis.results import assemble
from experiments.report import main

RESAMPLES = 300


def board(*folders: Path) -> dict[str, Any]:
    runs = [(folder, assemble(folder, num_resamples=RESAMPLES)) for folder in folders]
    found = leaderboard(runs, num_resamples=RESAMPLES)
    validate("leaderboard", found)
    return found


def scores(folder: Path) -> np.ndarray:
    table = pq.read_table(folder / "answers" / "gqa.0.masked.drop.vit+clip+dino+convnext.parquet")
    return np.array(table["score"].to_pylist())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    for name in ("first", "twin"):
        write_run(made / name, tasks=("gqa",), num_rows=300)
    write_run(made / "seed", tasks=("gqa",), num_rows=300, seeds=(1,))
    write_run(made / "three", tasks=("gqa",), num_rows=300, seeds=(0, 1, 2))
    write_run(made / "others", tasks=("gqa", "vqa"), num_rows=200)
    return made


def test_a_run_against_itself_differs_by_nothing(home: Path) -> None:
    found = board(home / "first", home / "twin")
    entry = found["tasks"]["gqa"]["runs"][1]
    n = entry["difference"]["n"]
    bound = 1.96 * 2 / (n / 2)  # where none of n / 2 images differs, 3.7 of them may, with both of their questions
    assert entry["difference"]["value"] == 0 and entry["difference"]["ci95"] == pytest.approx([-bound, bound], rel=0.02)
    assert entry["outcome"] == ("equivalent" if bound <= 0.01 else "undetermined") and entry["p_holm"] == 1


def test_runs_of_retrained_coalitions_are_compared_too(home: Path, tmp_path: Path) -> None:
    made = shutil.copytree(home / "first", tmp_path / "retrained")
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(config | {"coalitions": "retrained"}))
    for path in sorted((made / "answers").glob("*.masked.*.parquet")):
        content = pq.read_table(path)
        mode = pa.array(["retrained"] * len(content))
        pq.write_table(
            content.set_column(content.column_names.index("mode"), "mode", mode),
            path.with_name(path.name.replace("masked", "retrained")),
        )
        path.unlink()
    for path in (made / "train").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "retrained"}))
    assert board(home / "first", made)["tasks"]["gqa"]["runs"][1]["difference"]["value"] == 0


def test_a_difference_is_that_of_the_answers_and_paired(home: Path) -> None:
    entry = board(home / "first", home / "seed")["tasks"]["gqa"]["runs"][1]
    first = scores(home / "first")
    table = pq.read_table(home / "seed" / "answers" / "gqa.1.masked.drop.vit+clip+dino+convnext.parquet")
    second = np.array(table["score"].to_pylist())
    assert entry["difference"]["value"] == pytest.approx((second - first).mean(), abs=1e-6)
    by_image = (second - first).reshape(-1, 2).mean(axis=1)
    half = 1.96 * by_image.std(ddof=1) / np.sqrt(len(by_image))
    low, high = entry["difference"]["ci95"]
    assert high - low == pytest.approx(2 * half, rel=0.2)


def test_the_schema_refuses_outcomes_without_a_difference(home: Path) -> None:
    found = board(home / "first", home / "seed")
    compared = found["tasks"]["gqa"]["runs"][1]
    for key in ("difference", "outcome", "p_holm"):
        broken = copy.deepcopy(found)
        del broken["tasks"]["gqa"]["runs"][1][key]
        with pytest.raises(jsonschema.ValidationError):
            validate("leaderboard", broken)
    found["tasks"]["gqa"]["runs"][0] |= {"difference": compared["difference"]}
    with pytest.raises(jsonschema.ValidationError):
        validate("leaderboard", found)


def test_what_cannot_be_paired_says_why(home: Path) -> None:
    found = board(home / "first", home / "three", home / "others")
    _, three, others = found["tasks"]["gqa"]["runs"]
    assert three["difference"] == {"not_run": "3 seeds, the first run has 1"}
    assert others["difference"] == {"not_run": "answered other examples than the first run"}
    assert three["outcome"] == others["outcome"] == "not compared" and "p_holm" not in three
    assert [entry["run"] for entry in found["tasks"]["vqa"]["runs"]] == ["others"]


def test_a_worse_run_is_found_and_corrected_for_how_many_were_compared(home: Path, tmp_path: Path) -> None:
    worse = write_run(tmp_path / "worse", tasks=("gqa",), num_rows=300)
    path = worse / "answers" / "gqa.0.masked.drop.vit+clip+dino+convnext.parquet"
    table = pq.read_table(path)
    column = [0.0 if row % 5 == 0 else value for row, value in enumerate(table["score"].to_pylist())]
    pq.write_table(table.set_column(table.column_names.index("score"), "score", [column]), path)
    _, entry, other = board(home / "first", worse, home / "seed")["tasks"]["gqa"]["runs"]
    assert entry["outcome"] == "worse" and entry["action"] == "prefer the first run"
    assert entry["p_holm"] == pytest.approx(2 * entry["p"]) and other["p_holm"] == pytest.approx(other["p"])


def test_outcomes_follow_the_interval() -> None:
    def leaf(low: float, high: float) -> dict[str, Any]:
        return {"value": (low + high) / 2, "ci95": [low, high], "n": 10}

    assert outcome(leaf(-0.01, 0.01), 0.001) == "equivalent"
    assert outcome(leaf(0.02, 0.05), 0.01) == "better" and outcome(leaf(-0.05, -0.02), 0.01) == "worse"
    assert outcome(leaf(0.02, 0.05), 0.2) == outcome(leaf(-0.02, 0.05), 0.01) == "undetermined"
    assert outcome({"not_run": "why"}, 1.0) == "not compared"


def test_the_command_renders_each_run_and_the_leaderboard(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(home / "first"), str(home / "seed")]) == 0
    page = home / "leaderboard" / "leaderboard.html"
    assert capsys.readouterr().out.strip().endswith(str(page))
    stored = json.loads(page.with_suffix(".json").read_text())
    assert [run["run"] for run in stored["runs"]] == ["first", "seed"]
    text, markdown = page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")
    low, high = stored["tasks"]["gqa"]["runs"][1]["difference"]["ci95"]
    for end in (low, high):
        words = f"{100 * end:.1f}".replace("-", "\u2212")
        assert words in text and words in markdown
    assert (page.parent / "figures" / "gqa-runs.png").exists()
    assert (home / "seed" / "report.html").exists()


def test_a_broken_run_or_flag_is_told_in_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(home / "nowhere")]) == 1 and main([str(home / "first"), "--images", "gqa"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "nowhere" in said[0] and "TASK=FOLDER" in said[1]


def entry(encoders: list[str], value: float) -> dict[str, Any]:
    return {"encoders": encoders, "value": value, "ci95": [value, value], "n": 9}


def test_fronts_and_the_cheapest_within_the_margin() -> None:
    cost = {"a": {"tokens": 10, "gflops": 1.0}, "b": {"tokens": 30, "gflops": {"not_run": "why"}}}
    values = [entry([], 0.2), entry(["a"], 0.5), entry(["b"], 0.4), entry(["a", "b"], 0.505)]
    task = {
        "coalitions": values,
        "shortfall": [{**entry(["a"], 0.005), "ci95": [0.0, 0.01]}, {**entry([], 0.3), "ci95": [0.2, 0.4]}],
    }
    assert cost_of_coalition(cost, ["a", "b"], "tokens") == 40
    assert cost_of_coalition(cost, ["a", "b"], "gflops") is None
    found = [(price, e["encoders"]) for price, e in front(task, cost, "tokens")]
    assert found == [(0, []), (10, ["a"]), (40, ["a", "b"])]
    assert [e["encoders"] for _, e in front(task, cost, "gflops")] == [[], ["a"]]
    assert (cheapest_within(task, cost, "tokens") or {})["encoders"] == ["a"]
    task["shortfall"][0]["ci95"] = [0.0, 0.011]
    assert cheapest_within(task, cost, "tokens") is None
