"""Official scores: the specification's worked cases, agreement with independent libraries, vocabularies,
exports.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import official_files as official
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import encoders.torchvision_compat  # noqa: F401  (torchmetrics imports torchvision)
from tasks import load_task
from tasks.base import Answer
from tasks.errors import PredictionError, TaskError
from tasks.gqa import Gqa
from tasks.gqa_metrics import Choices, GqaQuestion, gqa_scores
from tasks.hateful_memes import auroc
from tasks.vocabulary import Vocabulary, label_vocabulary, soft_targets, vqa_vocabulary
from tasks.vqa_accuracy import CONTRACTIONS, compared, normalise, overall, vqa_accuracy

VQA_CASES = json.loads((Path(__file__).parent / "data" / "vqa_norm_cases.json").read_text())
WORDS = st.sampled_from(
    ["yes", "Yes", "no", "a dog", "dog", "two", "2", "x-ray", "1,000", "", "isnt", "t-shirt -"]
)


def answer(key: str = "1", **changes: object) -> Answer:
    fields: dict[str, object] = {
        "id": key,
        "image": f"{key}.jpg",
        "direction": "",
        "prediction": "yes",
        "target": "yes",
        "score": 1.0,
        "probability": 0.5,
        "logprob": -0.5,
        "rank": None,
    }
    return Answer(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", VQA_CASES, ids=[case["id"] for case in VQA_CASES])
def test_every_worked_vqa_case(case: dict[str, object]) -> None:
    prediction, answers = str(case["prediction"]), list(case["answers"])  # type: ignore[call-overload]
    assert compared(prediction, answers)[0] == case["normalised"]
    assert vqa_accuracy(prediction, answers) == pytest.approx(case["accuracy"], abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answers", "accuracy"),
    [
        ("Yes", ["yes"] * 10, 0.0),
        ("Yes", ["yes"] * 9 + ["no"], 1.0),
        ("1,000-2,000", ["10002000"] * 3 + ["1000 2000"] * 7, 0.9),
        ("red,blue", ["red blue"] * 3 + ["red and blue"] * 7, 0.9),
        ("x-ray - film", ["xray film"] * 3 + ["x ray film"] * 7, 0.9),
        ("4:30 p.m.", ["4:30 pm"] * 3 + ["4:30"] * 7, 0.9),
        ("none", ["0", "zero"] + ["1"] * 8, 0.6),
        ("yes\n", ["\tyes "] * 10, 1.0),
    ],
)
def test_the_specification_table(prediction: str, answers: list[str], accuracy: float) -> None:
    assert vqa_accuracy(prediction, answers) == pytest.approx(accuracy, abs=1e-12)


@given(WORDS, st.lists(WORDS, min_size=10, max_size=10))
def test_vqa_accuracy_is_the_official_double_loop(prediction: str, answers: list[str]) -> None:
    said, given_answers = compared(prediction, answers)
    accuracies = []
    for left_out in range(10):
        others = [text for position, text in enumerate(given_answers) if position != left_out]
        accuracies.append(min(1.0, others.count(said) / 3))
    assert vqa_accuracy(prediction, answers) == pytest.approx(sum(accuracies) / 10, abs=1e-12)


@given(WORDS, st.lists(WORDS, min_size=10, max_size=10), st.randoms())
def test_annotator_order_does_not_matter(prediction: str, answers: list[str], random: object) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert vqa_accuracy(prediction, answers) == vqa_accuracy(prediction, shuffled)


def test_contractions() -> None:
    assert len([key for key, word in CONTRACTIONS.items() if word == "y'all'd've"]) == 3
    assert normalise("dont couldntve im its somebody'd oclock") == "don't couldntve im its somebodyd o'clock"
    assert normalise("couldn'tve couldnt've") == "couldn't've couldn't've"


def test_overall_is_printed_in_percent_with_two_digits() -> None:
    assert overall([0.3, 0.6, 1.0]) == 63.33
    with pytest.raises(PredictionError):
        overall([])
    with pytest.raises(PredictionError):
        vqa_accuracy("yes", [])


def test_vqa_vocabulary_keeps_frequent_answers_in_order_of_first_occurrence() -> None:
    consensus = ["2", "the", "Two", "red", "1,000", "red", "an", "blue"]
    assert vqa_vocabulary(consensus, min_count=2).answers == ("2", "", "red")
    assert vqa_vocabulary(consensus, min_count=1).answers == ("2", "", "red", "1000", "blue")
    with pytest.raises(TaskError, match="the most frequent one has 2 questions"):
        vqa_vocabulary(consensus)
    assert vqa_vocabulary(["a b"] * 9).answers == ("b",)


def test_soft_targets_look_up_raw_strings() -> None:
    vocabulary = Vocabulary(("yes", "no", "red"))
    counted = ["yes"] * 4 + ["no"] * 2 + ["Red"] * 3 + ["red"]
    assert soft_targets(counted, vocabulary) == pytest.approx({0: 1.0, 1: 0.6, 2: 0.3})
    with pytest.raises(TaskError, match="twice"):
        Vocabulary(("a", "a"))
    assert label_vocabulary(["b", "a", "b"]).answers == ("b", "a")


def gqa_example() -> tuple[dict[str, GqaQuestion], dict[str, str], dict[str, Choices]]:
    def question(gold: str, **changes: object) -> GqaQuestion:
        fields: dict[str, object] = {
            "text": "what colour ?",
            "answer": gold,
            "structural": "query",
            "semantic": "attr",
            "detailed": "attrQuery",
        }
        return GqaQuestion(**(fields | changes))  # type: ignore[arg-type]

    questions = {
        "q1": question("red", group="color", entailed=("q1", "q2", "q6")),
        "q2": question("yes", structural="verify", entailed=("q1",)),
        "q3": question("blue", group="color"),
        "q4": question("red", group="color", entailed=("q2",)),
        "q5": question("color", structural="compare", detailed="twoCommon"),
        "q6": question("no", structural="verify", balanced=False),
    }
    predictions = {"q1": "red", "q2": "yes", "q3": "red", "q4": "purple", "q5": "shape", "q6": "yes"}
    colours = Choices(frozenset(("red", "blue", "green", "purple")), frozenset(("red", "blue")))
    yes_no = Choices(frozenset(("yes", "no")), frozenset(("yes", "no")))
    return questions, predictions, {"q1": colours, "q2": yes_no, "q3": colours, "q4": colours, "q5": yes_no}


def test_gqa_specification_example() -> None:
    scores = gqa_scores(*gqa_example())
    printed = {
        name: round(100 * value, 2) for name, value in scores.present().items() if name != "distribution"
    }
    assert printed["binary"] == 50.0
    assert printed["open"] == 33.33
    assert printed["accuracy"] == 40.0
    assert printed["consistency"] == 75.0
    assert printed["validity"] == 100.0
    assert printed["plausibility"] == 80.0
    assert scores.distribution == pytest.approx(0.01)
    assert scores.by["structural"] == pytest.approx({"query": 1 / 3, "verify": 1.0, "compare": 0.0})
    assert scores.by["words"] == pytest.approx({"3": 0.4})


@given(st.data())
def test_gqa_metrics_do_not_depend_on_order(data: st.DataObject) -> None:
    """Any order of questions, predictions and choices, and answers that need not be right."""
    questions, predictions, choices = gqa_example()
    predictions = {key: data.draw(st.sampled_from(["red", "blue", "yes", "no", "color"])) for key in predictions}
    expected = gqa_scores(questions, predictions, choices)

    def turned(table: dict[str, Any]) -> dict[str, Any]:
        return {key: table[key] for key in data.draw(st.permutations(list(table)))}

    found = gqa_scores(turned(questions), turned(predictions), turned(choices))
    assert found.present() == pytest.approx(expected.present())
    assert {k: dict(v) for k, v in found.shares.items()} == {k: dict(v) for k, v in expected.shares.items()}
    shares = list(expected.shares["accuracy"].values())
    cut = data.draw(st.integers(1, len(shares) - 1))
    batches = [(sum(part) / len(part), len(part)) for part in (shares[:cut], shares[cut:])]
    assert sum(mean * count for mean, count in batches) / len(shares) == pytest.approx(expected.accuracy)


def test_gqa_metrics_that_cannot_be_known_are_absent() -> None:
    questions, predictions, _ = gqa_example()
    del predictions["q6"]
    scores = gqa_scores(questions, predictions)
    assert (scores.consistency, scores.validity, scores.plausibility) == (None, None, None)
    assert "consistency" not in scores.present()
    del predictions["q5"]
    with pytest.raises(PredictionError, match="1 of 5 balanced questions have no prediction, such as 'q5'"):
        gqa_scores(questions, predictions)


def test_gqa_scores_from_official_files(tmp_path: Path) -> None:
    balanced = {"1": official.gqa_question(entailed=("2",)), "3": official.gqa_question(answer="blue")}
    official.write_json(tmp_path / "val_balanced_questions.json", balanced)
    everything = balanced | {"2": official.gqa_question(answer="yes", structural="verify", balanced=False)}
    official.write_json(tmp_path / "val_all_questions.json", everything)
    scores = Gqa().scores(tmp_path, "select", {"1": "red", "2": "no", "3": "red"})
    assert (scores.accuracy, scores.open, scores.binary, scores.consistency) == (0.5, 0.5, None, 0.0)
    assert Gqa().scores(tmp_path, "select", {"1": "red", "3": "red"}).consistency is None


def test_meme_metrics_of_the_specification() -> None:
    targets, probabilities = [0, 1, 1, 0, 1], [0.1, 0.8, 0.4, 0.4, 0.9]
    answers = [
        answer(str(k), target=str(t), probability=p, score=None)
        for k, (t, p) in enumerate(zip(targets, probabilities, strict=True))
    ]
    task = load_task("hateful_memes")
    assert round(100 * task.value(answers), 2) == 91.67
    assert task.secondary(answers) == {"accuracy": 0.8}
    with pytest.raises(TaskError, match="both classes"):
        task.value(answers[1:3])
    with pytest.raises(TaskError, match="cannot be scored"):
        task.value([answer("1", target="", score=None)])


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), min_size=2, max_size=30)
)
def test_auroc_agrees_with_torchmetrics(pairs: list[tuple[bool, float]]) -> None:
    from torchmetrics.classification import BinaryAUROC

    targets, probabilities = [int(label) for label, _ in pairs], [p for _, p in pairs]
    if len(set(targets)) == 2:
        expected = float(BinaryAUROC()(torch.tensor(probabilities), torch.tensor(targets)))
        assert auroc(targets, probabilities) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_accuracy_agrees_with_torchmetrics(pairs: list[tuple[int, int]]) -> None:
    from torchmetrics.classification import MulticlassAccuracy

    names = ("contradiction", "neutral", "entailment")
    answers = [
        answer(str(k), prediction=names[p], target=names[t], score=float(p == t), slices={"label": names[t]})
        for k, (p, t) in enumerate(pairs)
    ]
    predicted, gold = torch.tensor([p for p, _ in pairs]), torch.tensor([t for _, t in pairs])
    micro = MulticlassAccuracy(num_classes=3, average="micro")(predicted, gold)
    task = load_task("snli_ve")
    assert task.value(answers) == pytest.approx(float(micro), abs=1e-6)
    assert task.value(answers[::-1]) == task.value(answers)
    by_label = MulticlassAccuracy(num_classes=3, average="none")(predicted, gold)
    for name, value in task.secondary(answers).items():
        assert value == pytest.approx(float(by_label[names.index(name.removeprefix("label="))]), abs=1e-6)


def test_breakdowns_and_splits_without_answers() -> None:
    kinds = [("number", 1.0), ("number", 0.3), ("other", 0.6)]
    answers = [answer(str(k), score=s, slices={"answer_type": kind}) for k, (kind, s) in enumerate(kinds)]
    task = load_task("vqa")
    assert task.secondary(answers) == pytest.approx({"answer_type=number": 0.65, "answer_type=other": 0.6})
    with pytest.raises(TaskError, match="1 of 2 answers have no score"):
        task.value([answer("1"), answer("2", score=None)])
    structural = [("query", 1.0), ("verify", 0.0), ("choose", 1.0)]
    answers = [answer(str(k), score=s, slices={"structural": kind}) for k, (kind, s) in enumerate(structural)]
    found = load_task("gqa").secondary(answers)
    assert (found["open"], found["binary"], found["structural=choose"]) == (1.0, 0.5, 1.0)


def test_exports_are_of_the_official_shape(tmp_path: Path) -> None:
    answers = [
        answer("42000", prediction="yes", probability=0.25),
        answer("7", prediction="1", probability=0.75),
    ]
    load_task("vqa").export(answers, tmp_path / "new" / "vqa.json")
    assert json.loads((tmp_path / "new" / "vqa.json").read_text()) == [
        {"question_id": 42000, "answer": "yes"},
        {"question_id": 7, "answer": "1"},
    ]
    load_task("gqa").export(answers, tmp_path / "gqa.json")
    assert json.loads((tmp_path / "gqa.json").read_text())[0] == {"questionId": "42000", "prediction": "yes"}
    load_task("hateful_memes").export(answers, tmp_path / "memes.csv")
    with (tmp_path / "memes.csv").open() as file:
        assert list(csv.DictReader(file))[1] == {"id": "7", "proba": "0.75", "label": "1"}
    load_task("snli_ve").export(answers, tmp_path / "ve.jsonl")
    assert json.loads((tmp_path / "ve.jsonl").read_text().splitlines()[1]) == {
        "pairID": "7",
        "gold_label": "1",
    }
    with pytest.raises(TaskError, match="no official submission format"):
        load_task("coco").export(answers, tmp_path / "coco.json")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "gqa.json", "memes.csv", "ve.jsonl"}


def test_question_answering_baselines(tmp_path: Path) -> None:
    kinds = [("is it", "yes")] * 3 + [("is it", "no")] * 2 + [("how many", "2")] * 2
    questions, annotations = official.vqa_files(list(range(1, 8)))
    for row, (kind, said) in zip(reversed(annotations["annotations"]), kinds, strict=True):  # type: ignore[call-overload]
        row.update(official.vqa_annotation(row["image_id"], answers=(said,) * 10) | {"question_type": kind})
    official.write_json(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", questions)
    official.write_json(tmp_path / "v2_mscoco_val2014_annotations.json", annotations)
    task = load_task("vqa", min_count=2)
    split = task.read(tmp_path, "val2014")
    found = task.baselines(split, split)
    assert (found.chance, found.majority, found.prior) == pytest.approx((1 / 3, 3 / 7, 5 / 7))


def test_label_baselines(tmp_path: Path) -> None:
    questions = {
        str(k): official.gqa_question(answer=said, detailed=kind)
        for k, (said, kind) in enumerate(
            [("red", "c"), ("red", "c"), ("cup", "o"), ("bag", "o"), ("cup", "o")]
        )
    }
    official.write_json(tmp_path / "train_balanced_questions.json", questions)
    gqa = load_task("gqa").read(tmp_path, "train")
    found = load_task("gqa").baselines(gqa, gqa)
    assert (found.chance, found.majority, found.prior) == pytest.approx((1 / 3, 2 / 5, 4 / 5))
    official.write_lines(
        tmp_path / "snli_ve_train.jsonl", [official.snli_record(number=k) for k in (0, 1, 4, 5)]
    )
    snli = load_task("snli_ve").read(tmp_path, "train")
    found = load_task("snli_ve").baselines(snli, snli)
    assert (found.chance, found.majority, found.prior) == (pytest.approx(1 / 3), 0.5, None)
    official.write_lines(tmp_path / "train.jsonl", [official.meme(1)])
    memes = load_task("hateful_memes").read(tmp_path, "train")
    assert load_task("hateful_memes").baselines(memes, memes).chance == 0.5
