"""`python -m tasks.score` prints what the official evaluation prints: worked cases, round trips, order, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import official_files as official
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import load_task
from tasks.check import write_exclusions
from tasks.errors import DatasetError, PredictionError, TaskError
from tasks.intervals import auroc_leaf, mean_leaf, means_leaf
from tasks.predictions import read_similarity, write_similarity
from tasks.score import main, score

VQA_CASES = json.loads((Path(__file__).parent / "data" / "vqa_norm_cases.json").read_text())
TEN = [case for case in VQA_CASES if len(case["answers"]) == 10]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def write_worked_vqa(folder: Path) -> Path:
    """The worked cases as questions, two on each image; question types a and b in turn."""
    questions, annotations = official.vqa_files([k // 2 + 1 for k in range(0, len(TEN), 2)], 2)
    rows = sorted(annotations["annotations"], key=lambda row: row["question_id"])  # type: ignore[attr-defined, index]
    for k, (row, case) in enumerate(zip(rows, TEN, strict=False)):
        row.update(official.vqa_annotation(row["image_id"], k % 2, tuple(case["answers"])))
        row["question_type"] = "ab"[k % 2]
    kept = {row["question_id"] for row in rows[: len(TEN)]}
    questions["questions"] = [q for q in questions["questions"] if q["question_id"] in kept]  # type: ignore[attr-defined]
    annotations["annotations"] = rows[: len(TEN)]
    official.write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", questions)
    official.write_json(folder / "v2_mscoco_val2014_annotations.json", annotations)
    said = [{"question_id": row["question_id"], "answer": c["prediction"]} for row, c in zip(rows, TEN, strict=False)]
    return official.write_json(folder / "results.json", said)


def test_every_worked_vqa_case_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_worked_vqa(tmp_path)
    found = printed(capsys, "vqa", "--data", str(tmp_path), "--split", "val2014", "--predictions", str(path))
    accuracies = [case["accuracy"] for case in TEN]
    assert found["n"] == len(TEN) > 20
    assert found["printed"]["vqa_accuracy"] == round(100 * sum(accuracies) / len(accuracies), 2)
    for kind, part in (("a", accuracies[::2]), ("b", accuracies[1::2])):
        assert found["printed"][f"question_type={kind}"] == round(100 * sum(part) / len(part), 2)
    assert found["value"]["chance"] == 1 / 3129


GQA_GOLD = {
    "q1": official.gqa_question(entailed=("q1", "q2", "q6")),
    "q2": official.gqa_question(answer="yes", structural="verify", group=None, entailed=("q1",)),
    "q3": official.gqa_question(answer="blue"),
    "q4": official.gqa_question(entailed=("q2",)),
    "q5": official.gqa_question(answer="color", structural="compare", detailed="twoCommon", group=None),
    "q6": official.gqa_question(answer="no", structural="verify", group=None, balanced=False),
}
GQA_SAID = {"q1": "red", "q2": "yes", "q3": "red", "q4": "purple", "q5": "shape", "q6": "yes"}


def write_gqa(folder: Path, said: dict[str, str]) -> Path:
    balanced = {key: record for key, record in GQA_GOLD.items() if record["isBalanced"]}
    official.write_json(folder / "val_balanced_questions.json", balanced)
    official.write_json(folder / "val_all_questions.json", GQA_GOLD)
    colours = {"valid": ["red", "blue", "green", "purple"], "plausible": ["red", "blue"]}
    choices = {key: colours for key in GQA_GOLD} | {"q2": {"valid": ["yes", "no"], "plausible": ["yes", "no"]}}
    official.write_json(folder / "eval" / "val_choices.json", choices)
    return official.write_json(
        folder / "said.json", [{"questionId": key, "prediction": answer} for key, answer in said.items()]
    )


@pytest.mark.parametrize("split", ["val_balanced", "val_all"])
def test_gqa_specification_example(tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str) -> None:
    """Only balanced questions enter a score, whichever split is named."""
    path = write_gqa(tmp_path, GQA_SAID)
    found = printed(capsys, "gqa", "--data", str(tmp_path), "--split", split, "--predictions", str(path))
    assert {name: found["printed"][name] for name in (
        "accuracy", "binary", "open", "consistency", "validity", "plausibility", "distribution",
    )} == {
        "accuracy": 40.0, "binary": 50.0, "open": 33.33, "consistency": 75.0, "validity": 100.0,
        "plausibility": 80.0, "distribution": 0.01,
    }  # fmt: skip
    assert found["n"] == 5
    assert found["printed"]["structural=verify"] == 100.0 and found["printed"]["semantic=attr"] == 40.0
    assert found["printed"]["words=5"] == found["printed"]["steps=1"] == 40.0
    assert list(found["not_run"]) == ["grounding"]


def test_gqa_counts_steps_as_the_official_script(tmp_path: Path) -> None:
    """`getStepsNum` of eval.py leaves out operations that ask whether something exists or what it is called."""
    select = ("select", "cup (1)")
    programs = {
        "1": (select, ("exist", "?")),
        "2": (select, ("filter color", "red"), ("query", "name")),
        "3": (select, ("choose name", "cup|jar")),
        "4": (select, ("query", "color")),
        "5": (select, ("relate", "on,subject,table (2)"), ("verify rel", "name,to the left of,o (3)")),
    }
    questions = {
        key: official.gqa_question()
        | {"semantic": [{"operation": name, "argument": argument, "dependencies": []} for name, argument in program]}
        for key, program in programs.items()
    }
    official.write_json(tmp_path / "testdev_balanced_questions.json", questions)
    entries = [{"questionId": key, "prediction": "red" if key in "23" else "blue"} for key in questions]
    said = official.write_json(tmp_path / "said.json", entries)
    found, answers = score(load_task("gqa"), tmp_path, "test", said)
    assert [answer.slices["steps"] for answer in answers] == ["1", "2", "1", "2", "3"]
    assert [found["printed"][f"steps={number}"] for number in (1, 2, 3)] == [50.0, 50.0, 0.0]


def test_gqa_predictions_of_all_where_the_folder_has_balanced_questions_alone(tmp_path: Path) -> None:
    questions = {"1": official.gqa_question(entailed=("9",)), "2": official.gqa_question(answer="blue")}
    official.write_json(tmp_path / "val_balanced_questions.json", questions)
    entries = [{"questionId": key, "prediction": "red"} for key in ("1", "2", "9")]
    said = official.write_json(tmp_path / "said.json", entries)
    found, _ = score(load_task("gqa"), tmp_path, "val_balanced", said)
    assert (found["printed"]["accuracy"], found["n"]) == (50.0, 2)
    assert found["not_run"]["consistency"] == (
        "the folder holds no file of questions that others entail, such as '9' (*_all)"
    )
    official.write_json(tmp_path / "val_all_questions.json", {"9": official.gqa_question(balanced=False)})
    assert score(load_task("gqa"), tmp_path, "val_balanced", said)[0]["printed"]["consistency"] == 100.0
    official.write_text(tmp_path / "val_all_questions.json", "{")
    with pytest.raises(DatasetError, match=r"val_all_questions\.json"):
        score(load_task("gqa"), tmp_path, "val_balanced", said)


def test_gqa_choices_below_the_questions_are_found(tmp_path: Path) -> None:
    official.write_json(tmp_path / "questions1.2" / "val_balanced_questions.json", {"1": official.gqa_question()})
    choices = {"1": {"valid": ["red", "blue"], "plausible": ["blue"]}}
    official.write_json(tmp_path / "questions1.2" / "eval" / "val_choices.json", choices)
    said = official.write_json(tmp_path / "said.json", [{"questionId": "1", "prediction": "red"}])
    printed = score(load_task("gqa"), tmp_path, "val_balanced", said)[0]["printed"]
    assert (printed["validity"], printed["plausibility"]) == (100.0, 0.0)


def test_gqa_says_what_it_cannot_know(tmp_path: Path) -> None:
    path = write_gqa(tmp_path, {key: answer for key, answer in GQA_SAID.items() if key != "q6"})
    (tmp_path / "eval" / "val_choices.json").unlink()
    found, _ = score(load_task("gqa"), tmp_path, "select", path)
    assert set(found["not_run"]) == {"consistency", "validity", "plausibility", "grounding"}


def write_similarities(folder: Path) -> np.ndarray:
    images = [official.karpathy_image(k, "test", captions=2) for k in (1, 2, 3)]
    official.write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    rows = [[0.9, 0.2, 0.3, 0.4, 0.1, 0.0], [0.8, 0.1, 0.5, 0.6, 0.2, 0.3], [0.1, 0.7, 0.2, 0.0, 0.3, 0.6]]
    return np.array(rows, dtype=np.float32)


def test_retrieval_specification_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    similarity = write_similarities(tmp_path)
    np.save(tmp_path / "plain.npy", similarity)
    np.savez(tmp_path / "both.npz", i2t=similarity, t2i=similarity.T)
    test = load_task("coco").read(tmp_path, "test")
    images, captions = test.images(), [example.id for example in test.examples]
    write_similarity(tmp_path / "named.npz", similarity[::-1, ::-1], images[::-1], captions[::-1])
    for name in ("plain.npy", "both.npz", "named.npz"):
        found = printed(capsys, "coco", "--data", str(tmp_path), "--predictions", str(tmp_path / name))
        assert {key: found["printed"][key] for key in (
            "recall@1_i2t", "recall@5_i2t", "recall@1_t2i", "recall@5_t2i", "rsum",
        )} == {
            "recall@1_i2t": 33.33, "recall@5_i2t": 100.0, "recall@1_t2i": 83.33, "recall@5_t2i": 100.0, "rsum": 516.67,
        }  # fmt: skip
        assert found["printed"]["mean_recall"] == round(516.67 / 6, 2) and found["value"]["chance"] > 0


def test_one_direction_may_be_reranked_alone(tmp_path: Path) -> None:
    similarity = write_similarities(tmp_path)
    perfect = np.repeat(np.eye(3, dtype=np.float32), 2, axis=1)
    np.savez(tmp_path / "both.npz", i2t=perfect, t2i=similarity.T)
    found, _ = score(load_task("coco"), tmp_path, "test", tmp_path / "both.npz")
    assert (found["printed"]["recall@1_i2t"], found["printed"]["recall@1_t2i"]) == (100.0, 83.33)


def test_coco_1k_folds_beside_the_whole(tmp_path: Path) -> None:
    """2,000 images: the second of each twin, 1,000 later, ties it; folds do not see the twin and so are perfect."""
    images = [official.karpathy_image(k, "test") for k in range(1, 2001)]
    official.write_json(tmp_path / "dataset_coco.json", {"images": images})
    twins = np.tile(np.repeat(np.eye(1000, dtype=np.float32), 5, axis=1), (2, 2))
    np.save(tmp_path / "twins.npy", twins)
    found, _ = score(load_task("coco"), tmp_path, "test", tmp_path / "twins.npy")
    assert (found["printed"]["recall@1_i2t"], found["printed"]["recall@1_t2i"]) == (0.0, 0.0)
    assert (found["printed"]["recall@5_t2i"], found["printed"]["recall@5_i2t"]) == (100.0, 0.0)
    assert (found["printed"]["1k_recall@1_i2t"], found["printed"]["1k_rsum"]) == (100.0, 600.0)


@pytest.mark.parametrize(
    ("stored", "kept"),
    [("f2", "f4"), ("f4", "f4"), (">f4", "f8"), ("f8", "f8"), ("g", "f8"), ("i1", "f8"), ("i8", "f8"), ("u4", "f8")],
)
def test_similarities_are_not_rounded(tmp_path: Path, stored: str, kept: str) -> None:
    values = np.array([[3, 1, 2], [0, 2, 1]]).astype(stored)
    np.save(tmp_path / "said.npy", values)
    for found in read_similarity(tmp_path / "said.npy", ["a", "b"], ["x", "y", "z"]):
        assert found.dtype == np.dtype(kept) and found.tolist() == values.tolist()


def test_probabilities_near_one_do_not_tie(tmp_path: Path) -> None:
    """In single precision 1 - 1e-9 and 1 - 2e-9 are both 1, a tie that would rank the own item last."""
    images = [official.karpathy_image(k, "test", coco=False) for k in range(2)]
    official.write_json(tmp_path / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    own = np.repeat(np.eye(2, dtype=bool), 5, axis=1)
    np.save(tmp_path / "said.npy", np.where(own, 1 - 1e-9, 1 - 2e-9))
    found, answers = score(load_task("flickr30k"), tmp_path, "test", tmp_path / "said.npy")
    assert [answer.rank for answer in answers] == [1] * 12
    assert all(answer.prediction in answer.target.split() for answer in answers)
    assert found["printed"]["rsum"] == 600.0


def test_similarities_that_do_not_fit(tmp_path: Path) -> None:
    similarity = write_similarities(tmp_path)
    np.save(tmp_path / "x.npy", similarity[:2])
    with pytest.raises(PredictionError, match=r"shape \(2, 6\), not numbers of \(images, captions\) \(3, 6\)"):
        score(load_task("coco"), tmp_path, "test", tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(PredictionError, match="without pickle"):
        read_similarity(tmp_path / "x.npy", ["a"], ["b"])
    np.savez(tmp_path / "x.npz", other=similarity)
    with pytest.raises(PredictionError, match="holds other: expected similarity, or i2t and t2i"):
        read_similarity(tmp_path / "x.npz", ["a"], ["b"])
    write_similarity(tmp_path / "x.npz", similarity, ["a", "b", "c"], list("uvwxyz"))
    with pytest.raises(PredictionError, match="its images are not those of the split, such as 'd'"):
        read_similarity(tmp_path / "x.npz", ["a", "b", "d"], list("uvwxyz"))
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(PredictionError, match="is no .npy or .npz"):
        read_similarity(tmp_path / "x.npz", ["a"], ["b"])


def test_memes_specification_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sklearn.metrics import accuracy_score, roc_auc_score  # type: ignore[import-untyped]

    targets, probabilities = [0, 1, 1, 0, 1], [0.1, 0.8, 0.4, 0.4, 0.9]
    official.write_lines(tmp_path / "test_seen.jsonl", [official.meme(k, t) for k, t in enumerate(targets)])
    rows = [f"{k},{p},{int(p > 0.5)}" for k, p in enumerate(probabilities)]
    path = official.write_text(tmp_path / "submission.csv", "\n".join(["id,proba,label", *rows[::-1]]))
    found = printed(capsys, "hateful_memes", "--data", str(tmp_path), "--predictions", str(path))
    assert (found["printed"]["auroc"], found["printed"]["accuracy"]) == (91.67, 80.0)
    assert found["value"]["value"] == pytest.approx(roc_auc_score(targets, probabilities), abs=1e-12)
    stated = [int(p > 0.5) for p in probabilities]
    assert found["secondary"]["accuracy"]["value"] == pytest.approx(accuracy_score(targets, stated), abs=1e-12)
    assert "accuracy_of_stated_labels" not in found["secondary"]
    official.write_text(tmp_path / "submission.csv", path.read_text().replace("2,0.4,0", "2,0.4,1"))
    found, _ = score(load_task("hateful_memes"), tmp_path, "test", path)
    assert (found["printed"]["accuracy"], found["printed"]["accuracy_of_stated_labels"]) == (80.0, 100.0)


def test_snli_ve_by_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [official.snli_record(number=k) for k in range(6)]  # contradiction, neutral, entailment, and again
    official.write_lines(tmp_path / "snli_ve_test.jsonl", records)
    said = ["contradiction", "neutral", "neutral", "neutral", "neutral", "entailment"]
    rows = [{"pairID": r["pairID"], "gold_label": label} for r, label in zip(records, said, strict=True)]
    path = official.write_lines(tmp_path / "said.jsonl", rows)
    arguments = (
        "snli_ve",
        "--data",
        str(tmp_path),
        "--predictions",
        str(path),
        "--answers",
        str(tmp_path / "a.parquet"),
    )
    found = printed(capsys, *arguments)
    assert {key: value for key, value in found["printed"].items()} == {
        "accuracy": 66.67,
        "label=contradiction": 50.0,
        "label=entailment": 50.0,
        "label=neutral": 100.0,
    }
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert table["score"] == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    assert table["id"] == [record["pairID"] for record in records] and table["slice_label"][1] == "neutral"
    assert main(list(arguments)) == 0
    assert "chance 33.33" in capsys.readouterr().out


def test_exported_predictions_are_scored_as_the_answers_were(tmp_path: Path) -> None:
    """What a run exports is what any system hands in: the same numbers come back, in any order of the file."""
    path = write_worked_vqa(tmp_path)
    task = load_task("vqa")
    first, answers = score(task, tmp_path, "val2014", path)
    task.export(answers, tmp_path / "again.json")
    again, same = score(task, tmp_path, "val2014", tmp_path / "again.json")
    assert same == answers and again["printed"] == first["printed"]
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())


def _write_snli(folder: Path) -> tuple[str, Path]:
    records = [official.snli_record(number=k) for k in range(6)]
    official.write_lines(folder / "snli_ve_test.jsonl", records)
    rows = [{"pairID": r["pairID"], "gold_label": "neutral"} for r in records]
    return "test", official.write_lines(folder / "said.jsonl", rows)


def _write_memes(folder: Path) -> tuple[str, Path]:
    official.write_lines(folder / "test_seen.jsonl", [official.meme(k, k % 2) for k in range(4)])
    rows = [f"{k},{p!r},{label}" for k, p, label in ((0, 0.1, 0), (1, 1 / 3, 1), (2, 0.5, 0), (3, 1e-17, 0))]
    return "test_seen", official.write_text(folder / "said.csv", "\n".join(["id,proba,label", *rows, ""]))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["gqa", "snli_ve", "hateful_memes"])
def test_predictions_files_round_trip(tmp_path: Path, name: str, turned: bool) -> None:
    """Read, judged, exported, read again: the same answers and numbers; the order of the file does not matter."""
    writers = {
        "gqa": lambda folder: ("val_balanced", write_gqa(folder, GQA_SAID)),
        "snli_ve": _write_snli,
        "hateful_memes": _write_memes,
    }
    split, path = writers[name](tmp_path)
    task = load_task(name)
    first, answers = score(task, tmp_path, split, path)
    task.export(answers[::-1] if turned else answers, tmp_path / "again")
    again, same = score(task, tmp_path, split, tmp_path / "again")
    assert same == answers and len(answers) > 3
    lost = {"consistency"} if name == "gqa" else set()  # the answers are those of balanced questions, without q6
    assert {k: v for k, v in first["printed"].items() if k not in lost} == again["printed"]


def test_a_split_without_answers_is_predicted_and_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, _ = official.vqa_files([5])
    official.write_json(tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json", questions)
    path = official.write_json(tmp_path / "said.json", [{"question_id": 5000, "answer": "yes"}])
    with pytest.raises(TaskError, match="split 'test2015' of 'vqa' has no public answers"):
        score(load_task("vqa"), tmp_path, "test2015", path)
    assert main(["vqa", "--data", str(tmp_path), "--split", "test2015", "--predictions", str(path)]) == 2
    assert capsys.readouterr().err.startswith("tasks.score: split 'test2015'")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([{"question_id": 7000, "answer": "yes"}], "1 of 2 records have no prediction, such as '8000'"),
        ([{"question_id": k, "answer": "y"} for k in (7000, 8000, 9000)], "1 predictions are of no record .* '9000'"),
        ([{"question_id": 7000, "answer": "yes"}] * 2, r"record \[1\]: id '7000' has a second prediction"),
        ([{"question_id": 7000, "answer": None}], r"record \[0\]: 'answer' must be a string"),
        ([{"id": 7000}], r"key 'question_id' is missing .*expected entries with 'question_id' and 'answer'"),
        ([], "holds no predictions"),
        ({"question_id": 7000}, "record line 1: key 'answer' is missing"),
    ],
)
def test_predictions_that_do_not_fit(tmp_path: Path, content: object, problem: str) -> None:
    official.write_vqa(tmp_path, "val2014", [7, 8])
    path = official.write_json(tmp_path / "said.json", content)
    with pytest.raises(PredictionError, match=problem):
        score(load_task("vqa"), tmp_path, "test", path)


def test_meme_submissions_that_do_not_fit(tmp_path: Path) -> None:
    task = load_task("hateful_memes")
    for text, problem in (
        ("id,proba,label\n1,high,1\n", "line 2: probability 'high' is no finite number"),
        ("id,proba,label\n1,nan,1\n", "probability 'nan' is no finite number"),
        ("id,proba,label\n1,0.5,2\n", "label '2' is neither 0 nor 1"),
        ("id,proba\n1,0.5\n", "key 'label' is missing .*expected columns id, proba, label"),
        ("id,proba,label\n1,0.5\n", "has 2 fields for 3 columns"),
    ):
        with pytest.raises(PredictionError, match=problem):
            task.predictions(official.write_text(tmp_path / "x.csv", text))


def test_excluded_images_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official.write_vqa(tmp_path, "val2014", [7, 8])
    said = [{"question_id": 7000, "answer": "yes"}, {"question_id": 8000, "answer": "no"}]
    path = official.write_json(tmp_path / "said.json", said)
    image = "val2014/COCO_val2014_000000000008.jpg"
    write_exclusions([image, "of/another/split.jpg"], tmp_path / "gone.json")
    common = ("vqa", "--data", str(tmp_path), "--predictions", str(path))
    assert printed(capsys, *common)["printed"]["vqa_accuracy"] == 50.0
    found = printed(capsys, *common, "--exclude", str(tmp_path / "gone.json"))
    assert (found["printed"]["vqa_accuracy"], found["n"], found["excluded_images"]) == (100.0, 1, [image])
    write_exclusions([image, image.replace("8.jpg", "7.jpg")], tmp_path / "gone.json")
    with pytest.raises(TaskError, match="no example left without its 2 excluded images"):
        load_task("vqa").read(tmp_path, "test").without(json.loads((tmp_path / "gone.json").read_text()))


def test_baselines_stand_beside_the_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "test"):
        official.write_lines(tmp_path / f"snli_ve_{part}.jsonl", [official.snli_record(number=k) for k in range(4)])
    rows = [{"pairID": official.snli_record(number=k)["pairID"], "gold_label": "neutral"} for k in range(4)]
    path = official.write_lines(tmp_path / "said.jsonl", rows)
    found = printed(capsys, "snli_ve", "--data", str(tmp_path), "--predictions", str(path), "--baselines")
    assert found["baselines"] == {"chance": pytest.approx(1 / 3), "majority": 0.5, "prior": None}


@settings(max_examples=40)
@given(st.data())
def test_scores_do_not_depend_on_order_or_batches(data: st.DataObject) -> None:
    """Any permutation of the answers, and any split into two batches weighted by size, gives the same score."""
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]), min_size=2, max_size=12))
    images = [data.draw(st.sampled_from("abcd")) for _ in scores]
    order = data.draw(st.permutations(range(len(scores))))
    whole = mean_leaf(scores, images)
    moved = mean_leaf([scores[k] for k in order], [images[k] for k in order])
    assert moved["value"] == pytest.approx(whole["value"]) and moved["n"] == whole["n"]
    assert (moved["ci95"] is None) == (whole["ci95"] is None)
    if whole["ci95"] is not None:
        assert moved["ci95"] == pytest.approx(whole["ci95"])
    cut = data.draw(st.integers(1, len(scores) - 1))
    first, second = mean_leaf(scores[:cut], images[:cut]), mean_leaf(scores[cut:], images[cut:])
    assert (first["value"] * cut + second["value"] * (len(scores) - cut)) / len(scores) == pytest.approx(
        whole["value"]
    )


def test_intervals_by_hand() -> None:
    """Clusters of one: the normal interval of a mean, n - 1 in its variance. Clusters of two: influences -1/8 and 1/8,
    so a variance of 2/1 * 2/64 = 1/16.
    """
    scores = [1.0, 0.0, 1.0, 1.0]
    by_hand = 1.959963984540054 * (np.var(scores, ddof=1) / 4) ** 0.5
    assert mean_leaf(scores, list("abcd"))["ci95"] == pytest.approx([0.75 - by_hand, 1.0])
    assert mean_leaf(scores, ["a"] * 4)["ci95"] is None
    pairs = mean_leaf([1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"])
    assert pairs["ci95"] == pytest.approx([0.75 - 1.959963984540054 / 4, 1.0])
    both = means_leaf([([1.0, 0.0], ["a", "b"]), ([1.0], ["a"])])
    assert (both["value"], both["n"]) == (0.75, 3)
    area = auroc_leaf([0, 1, 1, 0, 1], [0.1, 0.8, 0.4, 0.4, 0.9], list("abcde"))
    assert area["ci95"][0] < area["value"] <= area["ci95"][1] == 1.0


def test_help_is_at_once_and_user_errors_are_one_line(tmp_path: Path) -> None:
    started = time.perf_counter()
    for module in ("tasks.score", "tasks.check"):
        found = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", module, "--help"], capture_output=True, text=True
        )
        assert found.returncode == 0 and "usage: python -m" in found.stdout
        assert "torch" not in found.stderr and "numpy" not in found.stderr
    assert time.perf_counter() - started < 10
    found = subprocess.run(
        [sys.executable, "-m", "tasks.score", "vqqa", "--data", str(tmp_path), "--predictions", "x.json"],
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "did you mean 'vqa'" in found.stderr
