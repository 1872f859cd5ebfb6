"""Oddities of the released files that no other test of readers and scores meets, each with a fixture of its own."""

from __future__ import annotations

import json
from pathlib import Path

import official_files as official
import pytest

from tasks import load_task
from tasks.base import Task
from tasks.conformance import encoded
from tasks.errors import DatasetError, TaskError
from tasks.gqa import Gqa
from tasks.published import OTHER_VERSIONS
from tasks.score import main, score


def test_a_okvqa_in_the_place_of_gqa_is_refused(tmp_path: Path) -> None:
    """LAVIS's addresses for plain GQA's val and test give A-OKVQA's records."""
    record = {
        "split": "val",
        "image": "val2017/000000461751.jpg",
        "image_id": 461751,
        "question_id": "22jbM6gDxdaMaunuzgrsBB",
        "question": "What is in the motorcyclist's mouth?",
        "choices": ["toothpick", "food", "popsicle stick", "cigarette"],
        "correct_choice_idx": 3,
        "direct_answers": ["cigarette"] * 10,
    }
    official.write_json(tmp_path / "testdev.json", [record])
    with pytest.raises(DatasetError, match=r"testdev\.json, record .*: key 'answer' is missing") as caught:
        load_task("gqa").read(tmp_path, "test")
    assert "\n" not in str(caught.value)


def test_gqa_from_lavis_and_lxmerts_other_files(tmp_path: Path) -> None:
    lavis = {"image": "n161313.jpg", "question": "Who?", "question_id": "0733", "answer": "man"}
    official.write_json(tmp_path / "lavis" / "testdev_balanced_questions.json", [lavis])
    (example,) = load_task("gqa").read(tmp_path / "lavis", "test").examples
    assert (example.id, example.image, example.text, example.target) == ("0733", "n161313.jpg", "Who?", "man")
    lxmert = {"img_id": "2375429", "question_id": "07", "sent": "Who?"}
    official.write_json(tmp_path / "lxmert" / "valid.json", [lxmert | {"label": {"man": 1.0}}])
    official.write_json(tmp_path / "lxmert" / "submit.json", [lxmert])
    task = load_task("gqa")
    assert [e.target for e in task.read(tmp_path / "lxmert", "val_balanced").examples] == ["man"]
    assert [e.target for e in task.read(tmp_path / "lxmert", "submission_all").examples] == [None]
    official.write_json(tmp_path / "lxmert" / "valid.json", [lxmert | {"label": {"man": 1.0, "boy": 1.0}}])
    with pytest.raises(DatasetError, match="'label' must hold one answer, not 2"):
        task.read(tmp_path / "lxmert", "val_balanced")


def test_gqas_unbalanced_questions_are_read_and_enter_no_score(tmp_path: Path) -> None:
    """Of `*_all` the official evaluation scores balanced questions alone; so do value, breakdowns and baselines."""
    official.write_json(
        tmp_path / "val_all_questions.json",
        {
            "1": official.gqa_question(answer="red"),
            "2": official.gqa_question(answer="blue", structural="verify"),
            "3": official.gqa_question(answer="red", balanced=False),
            "4": official.gqa_question(answer="red", balanced=False, structural="verify"),
        },
    )
    task = Gqa()
    split = task.read(tmp_path, "val_all")
    assert [dict(example.slices).get("balanced") for example in split.examples] == [None, None, "no", "no"]
    objective = task.objective(split, 8)
    answers = objective.answers(encoded(split.examples, objective.streams), split.examples)
    said = {answer.id: answer.prediction for answer in answers}
    right = {key: float(said[key] == gold) for key, gold in (("1", "red"), ("2", "blue"))}
    assert task.value(answers) == sum(right.values()) / 2
    assert task.secondary(answers)["open"] == right["1"] and task.secondary(answers)["binary"] == right["2"]
    task.export(answers, tmp_path / "said.json")
    found, _ = score(task, tmp_path, "val_all", tmp_path / "said.json")
    assert (found["value"]["value"], found["n"]) == (task.value(answers), 2)
    assert task.baselines(split, split).majority == 0.5  # red: three of four, one of two that count
    with pytest.raises(TaskError, match="none of 2 GQA questions is balanced"):
        task.value(answers[2:])


def test_vqa_answers_without_their_numbers_score_alike(tmp_path: Path) -> None:
    """The official script compares whole records, so that without `answer_id` equal answers would remove each other."""
    official.write_vqa(tmp_path, "val2014", [7])
    file = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        row["answers"] = [{"answer": answer} for answer in ["yes"] * 4 + ["no"] * 6]
    official.write_json(file, content)
    said = official.write_json(tmp_path / "said.json", [{"question_id": 7000, "answer": "yes"}])
    assert score(load_task("vqa"), tmp_path, "val2014", said)[0]["printed"]["vqa_accuracy"] == 100.0


def test_flickr_mirror_without_a_split_column(tmp_path: Path) -> None:
    """lmms-lab's table has all 31,783 images and no split."""
    rows = [
        {
            "image": {"bytes": official.png_bytes(k), "path": None},
            "caption": [f"A cup {k} {n}." for n in range(5)],
            "sentids": [str(5 * k + n) for n in range(5)],
            "img_id": str(k),
            "filename": f"{k}.jpg",
        }
        for k in range(3)
    ]
    official.write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)  # type: ignore[arg-type]
    task = load_task("flickr30k")
    with pytest.raises(DatasetError, match="holds captions without a split"):
        task.read(tmp_path, "test")
    official.write_text(tmp_path / "data" / "test.txt", "2\n0\n")
    found = task.read(tmp_path, "test")
    assert found.images() == ["0.jpg", "2.jpg"] and len(found.examples) == 10 and found.check_images() == []


def test_memes_of_both_dev_sets_share_ids(tmp_path: Path) -> None:
    for part, numbers in {"dev_seen": (1, 2), "dev_unseen": (2, 3)}.items():
        official.write_lines(tmp_path / f"{part}.jsonl", [official.meme(number) for number in numbers])
    task = load_task("hateful_memes")
    seen, unseen = (task.read(tmp_path, part) for part in ("dev_seen", "dev_unseen"))
    assert [[example.id for example in split.examples] for split in (seen, unseen)] == [["1", "2"], ["2", "3"]]
    assert task.read(tmp_path, "select").examples == seen.examples


def test_snli_pairs_without_a_gold_label_are_refused(tmp_path: Path) -> None:
    """SNLI marks them "-"; SNLI-VE left them out, so that one in the file is a mistake of the file."""
    rows = [official.snli_record(number=0), official.snli_record(number=1) | {"gold_label": "-"}]
    official.write_lines(tmp_path / "snli_ve_dev.jsonl", rows)
    with pytest.raises(DatasetError, match=r"snli_ve_dev\.jsonl, record line 2: gold_label '-' is none of"):
        load_task("snli_ve").read(tmp_path, "dev")


def test_a_score_on_a_corrected_set_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """e-ViL's dev set is told by its 14,339 records, here by three; it is named in the result and in the table."""
    monkeypatch.setitem(OTHER_VERSIONS, ("snli_ve", "dev", 3), OTHER_VERSIONS["snli_ve", "dev", 14_339])
    records = [official.snli_record(number=k) for k in range(4)]
    rows = [{"pairID": record["pairID"], "gold_label": "neutral"} for record in records]
    arguments = ["snli_ve", "--data", str(tmp_path), "--split", "dev", "--predictions", str(tmp_path / "said.jsonl")]
    for count, version in ((3, "e-ViL's corrected set"), (4, "")):
        official.write_lines(tmp_path / "snli_ve_dev.jsonl", records[:count])
        official.write_lines(tmp_path / "said.jsonl", rows[:count])
        assert main(arguments) == 0
        assert ("the split is e-ViL's corrected set" in capsys.readouterr().out) == bool(version)
        assert main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["version"]
        assert found.startswith(version) and bool(found) == bool(version)


def _vqa(folder: Path) -> None:
    questions, _ = official.vqa_files([5, 6])
    official.write_json(folder / "v2_OpenEnded_mscoco_test2015_questions.json", questions)


def _gqa(folder: Path) -> None:
    rows = {f"0{k}": {"imageId": "n3", "question": "Who?", "isBalanced": k == 1} for k in (1, 2)}
    official.write_json(folder / "submission_all_questions.json", rows)


def _memes(folder: Path) -> None:
    official.write_lines(folder / "test.jsonl", [official.meme(8291, None), official.meme(5, None)])


@pytest.mark.parametrize(
    ("task", "split", "write", "expected"),
    [
        (load_task("vqa"), "test2015", _vqa, [{"question_id": 5000}, {"question_id": 6000}]),
        (load_task("gqa"), "submission_all", _gqa, [{"questionId": "01"}, {"questionId": "02"}]),
        (load_task("hateful_memes"), "test", _memes, [{"id": "8291"}, {"id": "5"}]),
    ],
    ids=["vqa", "gqa", "hateful_memes"],
)
def test_splits_without_answers_are_predicted_in_the_official_format(
    tmp_path: Path, task: Task, split: str, write: object, expected: list[dict[str, object]]
) -> None:
    """Every record of the split, in the server's spelling of ids; what is read back is what was written."""
    write(tmp_path)  # type: ignore[operator]
    train = {
        "vqa": lambda: official.write_vqa(tmp_path / "train", "train2014", [1, 2], 9),
        "gqa": lambda: official.write_json(tmp_path / "train" / "train_balanced_questions.json", official.gqa()),
        "hateful_memes": lambda: official.write_lines(
            tmp_path / "train" / "train.jsonl", [official.meme(k, k % 2) for k in range(4)]
        ),
    }
    train[task.name]()
    data = task.read(tmp_path, split)
    assert all(example.target is None for example in data.examples)
    objective = task.objective(task.read(tmp_path / "train", "train2014" if task.name == "vqa" else "train"), 8)
    answers = objective.answers(encoded(data.examples, objective.streams), data.examples)
    assert all(answer.score is None and answer.prediction for answer in answers)
    file = tmp_path / "submission"
    task.export(answers, file)
    if task.name == "hateful_memes":
        header, *rows = (line.split(",") for line in file.read_text().splitlines())
        assert header == ["id", "proba", "label"] and [{"id": row[0]} for row in rows] == expected
    else:
        assert [dict(list(row.items())[:1]) for row in json.loads(file.read_text())] == expected
    read = task.predictions(file)
    assert {key: said.text for key, said in read.items()} == {answer.id: answer.prediction for answer in answers}
