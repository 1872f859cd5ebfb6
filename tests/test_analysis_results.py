"""Whole run folders with planted truth: what comes out, and what is refused."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from schemas import validate
from synthetic_run import CHANCE, ENCODERS, coalitions, write_run, write_task

from analysis.answers import load_answers
from analysis.errors import AnswersError, RunFolderError
from analysis.results import assemble, write_results
from analysis.sentences import slice_lines
from analysis.words import removal_words, training_words, verdict_sentence


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "planted", num_rows=900)


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    return assemble(run, num_resamples=1000)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_run(tmp_path / "small", tasks=("gqa",), num_rows=60)


def test_is_valid_against_the_schema_and_the_schema_is_one(results: dict[str, Any]) -> None:
    validate("results", results)
    assert set(results["tasks"]) == set(CHANCE)
    for task in results["tasks"].values():
        assert [tuple(entry["encoders"]) for entry in task["coalitions"]] == coalitions()


def test_the_schema_refuses_bare_scores(results: dict[str, Any]) -> None:
    for damage in ({"value": 0.5}, {"value": 0.5, "ci95": None, "n": 3}, 0.5, {"not_run": ""}):
        broken = json.loads(json.dumps(results))
        broken["tasks"]["gqa"]["shapley"]["vit"] = damage
        with pytest.raises(jsonschema.ValidationError):
            validate("results", broken)


def test_planted_truth_is_found_in_every_task(results: dict[str, Any]) -> None:
    for name, task in results["tasks"].items():
        loo, pairs = task["leave_one_out"], {tuple(i["encoders"]): i for i in task["interaction"]}
        assert loo["dino"]["value"] == 0, name  # vit sees all that dino sees
        assert loo["vit"]["ci95"][0] > 0  # relations need vit
        assert pairs["vit", "dino"]["ci95"][1] < 0  # redundant
        if name != "hateful_memes":  # AUROC is bounded, which mixes interactions
            assert pairs["vit", "convnext"]["ci95"][0] > 0  # synergy
        total = task["coalitions"][-1]["value"] - task["coalitions"][0]["value"]
        assert sum(leaf["value"] for leaf in task["shapley"].values()) == pytest.approx(total, abs=1e-5)
        grades = {entry["encoder"]: entry["grade"] for entry in task["verdict"]}
        assert grades == {
            "vit": "suggestive",
            "clip": "suggestive",
            # Nothing of dino is seen in 450 images; in AUROC one, with two of 450 memes of a class, moves nearly half
            # a point.
            "dino": "undetermined" if name == "hateful_memes" else "redundant",
            "convnext": "suggestive",
        }


def test_slices_say_who_sees_what(results: dict[str, Any]) -> None:
    for task in results["tasks"].values():
        slices = task["slices"]["factor"]
        assert slices["colour"]["shapley"]["convnext"]["ci95"][0] > 0.15
        assert slices["text"]["shapley"]["clip"]["ci95"][0] > 0.15
        for blind in ("vit", "clip", "dino"):
            low, high = slices["colour"]["shapley"][blind]["ci95"]
            assert low <= 0.02 and high >= -0.02
            assert abs(slices["colour"]["shapley"][blind]["value"]) < 0.02
        assert slices["relation"]["solo"]["convnext"]["value"] == pytest.approx(0, abs=0.02)
        assert (
            slices["shape"]["n"] + slices["colour"]["n"] + slices["text"]["n"] + slices["relation"]["n"]
            == 900
        )


def test_values_are_plain_means_of_the_files(run: Path, results: dict[str, Any]) -> None:
    for task in ("gqa", "vqa"):
        for entry in results["tasks"][task]["coalitions"]:
            name = "+".join(entry["encoders"]) or "none"
            scores = pq.read_table(run / "answers" / f"{task}.0.masked.drop.{name}.parquet")[
                "score"
            ].to_pylist()
            assert entry["value"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)


def test_floor_controls_and_best_single(results: dict[str, Any]) -> None:
    gqa, coco = results["tasks"]["gqa"], results["tasks"]["coco"]
    assert gqa["controls"]["blind"]["value"] == pytest.approx(0.25, abs=0.08)
    assert gqa["controls"]["shuffled"]["value"] == pytest.approx(0.25, abs=0.08)
    assert gqa["image_use"]["state"] == "uses the image"
    assert gqa["controls"]["seeds"] == {"not_run": "needs --controls full"}
    assert gqa["gain_over_floor"]["ci95"][0] > 0.5
    assert coco["floor"]["source"] == "chance by definition"
    assert coco["floor"]["value"] == coco["coalitions"][0]["value"] == CHANCE["coco"]
    assert "chance by definition" in coco["controls"]["blind"]["not_run"]
    best = gqa["best_single"]
    chosen = max(best["chosen_on"], key=lambda alias: best["chosen_on"][alias]["value"])
    assert best["encoder"] == chosen
    solo = next(e for e in gqa["coalitions"] if e["encoders"] == [chosen])
    assert best["value"] == solo["value"]
    full = gqa["coalitions"][-1]["value"]
    assert gqa["gain_over_best_single"]["value"] == pytest.approx(full - solo["value"], abs=2e-6)


def test_attention_lift_by_hand(results: dict[str, Any]) -> None:
    looked = results["tasks"]["gqa"]["attention"]
    assert looked["vit"]["lift"]["value"] == pytest.approx((0.3 / 0.7) / (0.2 / 0.8), abs=1e-6)
    assert looked["dino"]["mass"]["value"] == pytest.approx(0.1)
    assert looked["dino"]["mass"]["ci95"] is None and looked["dino"]["mass"]["ci95_not_run"]


def test_training_secondary_and_cost_are_carried_over(results: dict[str, Any]) -> None:
    assert results["tasks"]["vqa"]["steps"] == 1500 and results["tasks"]["vqa"]["converged"] is False
    assert "accuracy" in results["tasks"]["hateful_memes"]["secondary"]
    assert results["tasks"]["coco"]["secondary"]["recall@5_t2i"]["value"] <= 1
    assert len(results["training"][0]["losses"]) <= 120
    assert results["cost"]["vit"]["params"] == 800_000
    assert "conditional on the one seed" in results["interval_note"]


def test_same_folder_gives_the_same_numbers_and_writing_is_atomic(run: Path, results: dict[str, Any]) -> None:
    assert assemble(run, num_resamples=1000) == results
    path = write_results(run, results)
    assert json.loads(path.read_text()) == json.loads(json.dumps(results))
    assert not list(run.glob(".results*"))
    with pytest.raises(ValueError):
        write_results(run, {"value": float("nan")})
    assert json.loads(path.read_text()) == json.loads(json.dumps(results))
    assert not list(run.glob(".results*"))


ONE = ("duplicate", "seeds", "matched")
"""Controls that are made of one encoder."""


def copy_cells(folder: Path, pattern: str, *, mode: str = "masked", removal: str = "drop", coalition: str = "") -> None:
    """Writes the evaluated cells of a pattern again under another mode, removal or coalition."""
    for path in sorted((folder / "answers").glob(pattern)):
        if ".select" in path.name:
            continue
        table = replaced(replaced(pq.read_table(path), "mode", mode), "removal", removal)
        task, seed, _, _, name = path.stem.split(".")
        table = replaced(table, "coalition", coalition) if coalition else table
        pq.write_table(table, path.with_name(f"{task}.{seed}.{mode}.{removal}.{coalition or name}.parquet"))


def write_full_controls(folder: Path, task: str) -> None:
    """Every ensemble control as good as single encoders are."""
    for alias in ENCODERS:
        for mode in ONE:
            copy_cells(folder, f"{task}.*.masked.drop.{alias}.parquet", mode=mode)
    copy_cells(folder, f"{task}.*.masked.drop.vit.parquet", mode="averaged", coalition="+".join(ENCODERS))


def test_three_seeds_and_full_controls_can_establish(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "three", tasks=("gqa",), num_rows=900, seeds=(0, 1, 2))
    copy_cells(folder, "gqa.*.masked.drop.*.parquet", removal="mean")
    before = assemble(folder, num_resamples=300)["tasks"]["gqa"]
    assert before["complementarity"]["missing"] == dict.fromkeys((*ONE, "averaged"), "needs --controls full")
    assert not before["complementarity"]["claimed"]
    assert "established" not in {entry["grade"] for entry in before["verdict"]}
    write_full_controls(folder, "gqa")
    results = assemble(folder, num_resamples=300)
    validate("results", results)
    task = results["tasks"]["gqa"]
    assert task["seeds"] == [0, 1, 2]
    # Of several cells of a control the strongest is shown, and each is a comparison of its own.
    assert task["controls"]["duplicate"]["value"] == max(e["value"] for e in task["coalitions"][1:5])
    assert len(task["complementarity"]["comparisons"]) == 3 * 4 + 3
    assert task["complementarity"]["claimed"] and not task["complementarity"]["lacking"]
    grades = {entry["encoder"]: entry["grade"] for entry in task["verdict"]}
    assert grades["convnext"] == "established" and grades["dino"] == "redundant"
    assert "crossed" in results["interval_note"]
    assert task["sensitivity"]["mean"]["rank_agreement"]["value"] == pytest.approx(1)
    assert task["sensitivity"]["zero"] == {"not_run": "the run holds no such cells"}


def test_one_control_that_does_as_well_refuses_the_claim(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "ensemble", tasks=("gqa",), num_rows=200, seeds=(0, 1, 2))
    copy_cells(folder, "gqa.*.masked.drop.*.parquet", removal="mean")
    write_full_controls(folder, "gqa")
    copy_cells(folder, f"gqa.*.masked.drop.{'+'.join(ENCODERS)}.parquet", mode="seeds", coalition="vit")
    task = assemble(folder, num_resamples=300)["tasks"]["gqa"]
    assert not task["complementarity"]["claimed"]
    assert task["complementarity"]["lacking"] == ["the gain over control 'seeds' of vit may be zero"]
    assert "established" not in {entry["grade"] for entry in task["verdict"]}


def test_another_removal_that_shows_no_gain_keeps_from_established(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "removal", tasks=("gqa",), num_rows=200, seeds=(0, 1, 2))
    write_full_controls(folder, "gqa")
    copy_cells(folder, "gqa.*.masked.drop.*.parquet", removal="zero")
    copy_cells(
        folder,
        f"gqa.*.masked.drop.{'+'.join(ENCODERS)}.parquet",
        removal="zero",
        coalition="vit+clip+dino",
    )
    grades = {e["encoder"]: e for e in assemble(folder, num_resamples=300)["tasks"]["gqa"]["verdict"]}
    assert grades["clip"]["grade"] == "established" and grades["convnext"]["grade"] == "suggestive"
    assert grades["convnext"]["lacking"] == ["removal 'zero' does not show the gain of convnext"]


def test_a_control_under_some_seeds_or_of_another_encoder_does_not_count(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "partial", tasks=("gqa",), num_rows=100, seeds=(0, 1))
    best = assemble(folder, num_resamples=50)["tasks"]["gqa"]["best_single"]["encoder"]
    other = next(alias for alias in ENCODERS if alias != best)
    copy_cells(folder, f"gqa.*.masked.drop.{other}.parquet", mode="duplicate")
    copy_cells(folder, f"gqa.0.masked.drop.{best}.parquet", mode="seeds")
    missing = assemble(folder, num_resamples=50)["tasks"]["gqa"]["complementarity"]["missing"]
    assert missing["duplicate"] == f"made of {other}, and not of the best single encoder, {best}"
    assert missing["seeds"].startswith("its cells are not those of every seed")


def replaced(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, pa.array([value] * table.num_rows))


def test_reranked_answers_stand_beside_contrast(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "reranked", tasks=("coco",), num_rows=80)
    whole = folder / "answers" / f"coco.0.masked.drop.{'+'.join(ENCODERS)}.parquet"
    pq.write_table(
        replaced(pq.read_table(whole), "mode", "reranked"),
        whole.with_name(whole.name.replace("masked", "reranked")),
    )
    task = assemble(folder, num_resamples=100)["tasks"]["coco"]
    assert task["other_modes"]["reranked"]["value"] == task["coalitions"][-1]["value"]
    assert task["secondary"]["reranked_recall@1_i2t"] == task["secondary"]["recall@1_i2t"]


def test_retrained_coalitions_alone_give_the_numbers_of_a_table_that_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "alone", tasks=("gqa", "coco"), num_rows=80)
    masked = assemble(folder, num_resamples=100)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"coalitions": "retrained"}))
    for path in sorted((folder / "answers").glob("*.masked.*.parquet")):
        table = replaced(pq.read_table(path), "mode", "retrained")
        path.unlink()
        pq.write_table(table, path.with_name(path.name.replace("masked", "retrained")))
    for path in (folder / "train").glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"kind": "retrained", "steps": record["steps"] - 1}))
    found = assemble(folder, num_resamples=100)
    validate("results", found)
    for name, task in found["tasks"].items():
        before = masked["tasks"][name]
        assert [entry["mode"] for entry in task["coalitions"]] == ["retrained"] * 16
        for key in ("shapley", "best_single", "controls", "overlap", "slices", "gain_over_floor", "flips"):
            assert task[key] == before[key], key
        assert task["steps"] == before["steps"] - 1 and "Each coalition's own model" in training_words(task)
    assert "difference between two trainings" in removal_words(found) and "leaving" in removal_words(masked)
    (folder / "answers" / "gqa.0.retrained.drop.vit+clip.parquet").unlink()
    with pytest.raises(AnswersError, match=r"1 of 16 retrained coalitions have no answers \(vit\+clip\)"):
        assemble(folder, num_resamples=100)


def test_too_few_resamples_are_admitted(run: Path) -> None:
    entry = assemble(run, num_resamples=100)["tasks"]["gqa"]["verdict"][0]
    assert "100 resamples, too few for 24 comparisons" in entry["lacking"]
    assert entry["grade"] == "undetermined"


def test_a_model_at_its_floor_says_nothing_about_its_encoders(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "unlearned", tasks=("gqa",), num_rows=900)
    best = folder / "answers" / "gqa.0.masked.drop.none.parquet"
    table = pq.read_table(best)
    for path in folder.glob("answers/gqa.0.masked.drop.*.parquet"):
        if ".select" in path.name:
            continue
        pq.write_table(replaced(table, "coalition", path.stem.split(".")[-1].replace("none", "")), path)
    for entry in assemble(folder, num_resamples=300)["tasks"]["gqa"]["verdict"]:
        assert entry["gain"]["value"] == 0 and entry["grade"] == "undetermined"
        assert "all encoders together do not beat the floor" in entry["lacking"]
        assert entry["action"].startswith("undecided: the model has not learned")
        assert "cannot be told" in verdict_sentence(entry, [])


def test_missing_coalitions_are_named(small: Path) -> None:
    (small / "answers" / "gqa.0.masked.drop.vit+dino.parquet").unlink()
    (small / "answers" / "gqa.0.masked.drop.none.parquet").unlink()
    with pytest.raises(AnswersError, match=r"'gqa', seed 0: 2 of 16 .*\(none\), vit\+dino.*14 are stored"):
        assemble(small, num_resamples=50)


def test_a_task_without_answers_is_named(small: Path) -> None:
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "tasks": ["gqa", "coco"]}))
    with pytest.raises(AnswersError, match="no answers for coco"):
        assemble(small, num_resamples=50)


def test_misaligned_ids_are_refused(small: Path) -> None:
    path = small / "answers" / "gqa.0.masked.drop.vit.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(AnswersError, match=r"drop\.vit\.parquet .*0 more and 1 fewer, for instance id '0'"):
        load_answers(small)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), path)
    with pytest.raises(AnswersError, match="answers id '3' twice"):
        load_answers(small)


def test_row_order_in_a_file_does_not_matter(small: Path) -> None:
    before = assemble(small, num_resamples=50)
    path = small / "answers" / "gqa.0.masked.drop.vit.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), path)
    assert assemble(small, num_resamples=50) == before


def test_one_cell_in_two_files_or_two_cells_in_one_are_refused(small: Path) -> None:
    path = small / "answers" / "gqa.0.masked.drop.vit.parquet"
    shutil.copy(path, path.with_name("copy.parquet"))
    with pytest.raises(AnswersError, match="hold the same cell"):
        load_answers(small)
    path.with_name("copy.parquet").unlink()
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, replaced(table, "coalition", "clip")]), path)
    with pytest.raises(AnswersError, match="mixes 2 values of 'coalition'"):
        load_answers(small)


@pytest.mark.parametrize("content", [b"PAR1 not really", b""])
def test_unreadable_files_are_named(small: Path, content: bytes) -> None:
    (small / "answers" / "zzz.parquet").write_bytes(content)
    with pytest.raises(AnswersError, match=r"zzz\.parquet is no readable Parquet"):
        load_answers(small)


def test_folders_that_are_no_runs_are_named(tmp_path: Path, small: Path) -> None:
    with pytest.raises(RunFolderError, match=r"config\.json is missing"):
        assemble(tmp_path)
    (small / "baselines.json").write_text('{"coco": {"chance": 0.1}}')
    with pytest.raises(RunFolderError, match=r"no entry for task 'gqa' \(it has: coco\)"):
        assemble(small)
    (small / "baselines.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"baselines\.json is not valid JSON"):
        assemble(small)


def test_side_files_may_be_absent(small: Path) -> None:
    for name in ("attention.parquet", "similarity.json", "cost.json", "environment.json"):
        (small / name).unlink()
    shutil.rmtree(small / "train")
    for path in (small / "answers").glob("*select*"):
        path.unlink()
    results = assemble(small, num_resamples=50)
    validate("results", results)
    task = results["tasks"]["gqa"]
    assert "not_run" in task["best_single"] and "not_run" in task["attention"]["vit"]["mass"]
    assert "not_run" in task["steps"] and "not_run" in results["similarity"]["cka"]


def test_thin_slices_are_named_as_not_run(small: Path) -> None:
    slices = assemble(small, num_resamples=50)["tasks"]["gqa"]["slices"]["factor"]
    thin = [found for found in slices.values() if found["n"] < 30]
    assert thin and all("at least 30 of 10 are needed" in found["not_run"] for found in thin)


def test_a_direction_with_few_queries_does_not_decide_half_of_a_slice(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=("coco",), num_rows=600)
    for path in (folder / "answers").glob("*.parquet"):
        cells = pq.read_table(path)
        left = iter(range(1000))
        factors = [
            "" if (direction, factor) == ("i2t", "colour") and next(left) >= 5 else factor
            for direction, factor in zip(cells["direction"].to_pylist(), cells["slice_factor"].to_pylist(), strict=True)
        ]
        place = cells.column_names.index("slice_factor")
        pq.write_table(cells.set_column(place, "slice_factor", [factors]), path)
    results = assemble(folder, num_resamples=200)
    validate("results", results)
    slices = results["tasks"]["coco"]["slices"]["factor"]
    assert slices["colour"]["left_out"] == {"i2t": 5} and "left_out" not in slices["shape"]
    cells = pq.read_table(folder / "answers" / "coco.0.masked.drop.vit+clip+dino+convnext.parquet").to_pylist()
    scores = [c["score"] for c in cells if (c["direction"], c["slice_factor"]) == ("t2i", "colour")]
    assert slices["colour"]["n"] == len(scores)
    assert slices["colour"]["full"]["value"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert "Image-to-text queries are too few to count in factor = colour." in slice_lines(
        results["tasks"]["coco"], results["encoders"]
    )


def test_demo_sized_statistics_take_seconds(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", tasks=("hateful_memes", "coco"), num_rows=1500)
    start = time.process_time()
    assemble(folder)
    assert (
        time.process_time() - start < 20 * 2 / 6 + 3
    )  # a third of the demo's tasks, the slow one among them


def test_two_seeds_need_all_cells_in_both(small: Path) -> None:
    write_task(small, "gqa", num_rows=60, seed=1)
    (small / "answers" / "gqa.1.masked.drop.vit.parquet").unlink()
    with pytest.raises(AnswersError, match=r"seed 1: 1 of 16 .*\(vit\)"):
        assemble(small, num_resamples=50)
