"""The user's own task: generic readers, a file on the command line, an entry point, conformance, the docs page."""

from __future__ import annotations

import json
import re
import shlex
from importlib import metadata
from pathlib import Path

import official_files as official
import pytest

from experiments.combine import configure, parser
from experiments.data import check_data, find_data, read_tasks
from tasks import TASKS, load_task
from tasks.base import Answer, Example, Task
from tasks.conformance import check_task
from tasks.errors import DatasetError, TaskError
from tasks.own import Classification, Questions
from tasks.predictions import Prediction

PAGE = Path(__file__).parent.parent / "docs" / "own_task.md"


def test_the_docs_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"^accuracy +50\.00 .* n 40$", printed, flags=re.MULTILINE)
    assert re.search(r"^coat=dark +100\.00", printed, flags=re.MULTILINE)
    task = load_task("mine=counting.py:Counting")
    answers = [task.judge(example, Prediction("2")) for example in task.read(tmp_path / "dots", "test").examples]
    assert (task.name, task.value(answers)) == ("mine", pytest.approx((0.5 + 1 + 0) / 3))
    baselines = task.baselines(task.read(tmp_path / "dots", "train"), task.read(tmp_path / "dots", "test"))
    assert (baselines.chance, baselines.majority) == (pytest.approx((3 + 4 * 0.5 - 2 * 0.5) / 9), pytest.approx(0.5))
    assert _tasks_of_the_docs_command() == {"pets": 40, "dots": 3}


def _tasks_of_the_docs_command() -> dict[str, int]:
    """Test examples by task, as the page's one command for a run reads them in the current folder."""
    (command,) = re.findall(r"```\n(python -m experiments\.combine .*?)```", PAGE.read_text(), flags=re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    config = configure(parser().parse_args(words[3:]))
    check_data(config)
    return {name: len(data.splits["test"].examples) for name, data in read_tasks(config, find_data(config)).items()}


def _own(folder: Path, kind: str, records: list[dict[str, object]], suffix: str) -> Path:
    for part in ("train", "val", "test"):
        path = folder / f"{part}.{suffix}"
        if suffix == "jsonl":
            official.write_lines(path, records)
        elif suffix == "parquet":
            official.write_parquet(path, records)
        elif suffix == "json":
            official.write_json(path, records)
        else:
            cells = [[json.dumps(v) if isinstance(v, (dict, list)) else str(v) for v in r.values()] for r in records]
            rows = [list(records[0]), *cells]
            quoted = ['"' + cell.replace('"', '""') + '"' for row in rows for cell in row]
            width = len(records[0])
            lines = [",".join(quoted[k : k + width]) for k in range(0, len(quoted), width)]
            official.write_text(path, "\n".join(lines) + "\n")
    return folder


QUESTIONS: list[dict[str, object]] = [
    {"image": "a.png", "question": "what colour?", "answers": ["red", "red", "red", "crimson"]},
    {"image": "b.png", "question": "which one?", "answers": ["left", "right", "left"]},
]
LABELS: list[dict[str, object]] = [
    {"id": f"x{k}", "image": f"{k}.png", "text": "look", "label": "abb"[k], "slice_size": "small"} for k in range(3)
]
PAIRS: list[dict[str, object]] = [
    {"image": "a.png", "caption": "a cup"},
    {"image": "b.png", "caption": "a bag"},
    {"image": "a.png", "caption": "the cup"},
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json", "parquet"])
def test_generic_readers_in_every_container(tmp_path: Path, suffix: str) -> None:
    labels = load_task("classification").read(_own(tmp_path / "labels", "classification", LABELS, suffix), "select")
    assert [(e.id, e.image, e.text, e.target) for e in labels.examples] == [
        (f"x{k}", f"{k}.png", "look", "abb"[k]) for k in range(3)
    ]
    assert labels.examples[1].slices == {"size": "small", "label": "b"}
    asked = load_task("questions").read(_own(tmp_path / "asked", "questions", QUESTIONS, suffix), "test")
    assert [e.extra["weights"] for e in asked.examples] == [
        pytest.approx({"red": 1.0, "crimson": 1 / 3}),
        pytest.approx({"left": 2 / 3, "right": 1 / 3}),
    ]
    assert [e.id for e in asked.examples] == ["0", "1"]
    pairs = load_task("pairs").read(_own(tmp_path / "pairs", "pairs", PAIRS, suffix), "train")
    assert [(e.id, e.text) for e in pairs.examples] == [
        ("a.png#0", "a cup"),
        ("a.png#1", "the cup"),
        ("b.png#0", "a bag"),
    ]
    for name, folder in {"classification": "labels", "questions": "asked", "pairs": "pairs"}.items():
        check_task(load_task(f"mine={name}"), tmp_path / folder)


def test_one_file_with_a_split_column(tmp_path: Path) -> None:
    records = [record | {"split": part} for part, record in zip(("train", "val", "test"), LABELS, strict=True)]
    official.write_lines(tmp_path / "everything.jsonl", records)
    for split, key in {"train": "x0", "select": "x1", "test": "x2"}.items():
        assert [e.id for e in load_task("classification").read(tmp_path, split).examples] == [key]


def test_weights_decide_scores_vocabulary_and_baselines(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"image": "a.png", "question": "what?", "answers": {"cup": 1, "mug": 0.6}},
        {"image": "b.png", "question": "what?", "answer": "bag"},
        {"image": "c.png", "question": "what?", "answer": "cup"},
    ]
    task = Questions()
    split = task.read(_own(tmp_path, "questions", records, "jsonl"), "test")
    assert task.vocabulary(split).answers == ("cup", "mug", "bag")
    assert Questions(min_count=2).vocabulary(split).answers == ("cup",)
    said = [task.judge(example, Prediction("mug")) for example in split.examples]
    assert [answer.score for answer in said] == [0.6, 0.0, 0.0]
    found = task.baselines(split, split)
    assert (found.chance, found.majority) == pytest.approx((1 / 3, 2 / 3))
    objective = task.objective(split, 8)
    assert objective.targets(split.examples).tolist() == pytest.approx(  # type: ignore[operator]
        [pytest.approx([1, 0.6, 0]), pytest.approx([0, 0, 1]), pytest.approx([1, 0, 0])]
    )
    with pytest.raises(TaskError, match="has no answer of 9 questions"):
        Questions(min_count=9).vocabulary(split)


def test_defects_of_own_files_name_file_and_record(tmp_path: Path) -> None:
    for record, problem in (
        ({"image": "../a.png", "label": "x"}, "leaves the image root"),
        ({"image": "a.png", "label": ["x"]}, "'label' must be an integer of at least 0, not list"),
        ({"image": 3, "label": "x"}, "'image' must be a string"),
    ):
        official.write_lines(tmp_path / "train.jsonl", [LABELS[0], record])
        with pytest.raises(DatasetError, match=rf"train\.jsonl, record line 2: .*{re.escape(problem)}"):
            load_task("classification").read(tmp_path, "train")
    official.write_text(tmp_path / "train.jsonl", "")
    with pytest.raises(DatasetError, match=r"train\.jsonl: holds no examples"):
        load_task("classification").read(tmp_path, "train")


def test_task_files_that_are_not_usable(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no task file"):
        load_task(str(tmp_path / "absent.py"))
    for name, code, problem in (
        ("broken.py", "1 / 0", "cannot be run: ZeroDivisionError"),
        ("empty.py", "", "must define one task .* its tasks are none"),
        ("half.py", "def f(:", "cannot be run: SyntaxError"),
    ):
        path = official.write_text(tmp_path / name, code)
        with pytest.raises(TaskError, match=problem):
            load_task(str(path))
    two = "from tasks.own import Classification\nclass One(Classification): pass\nclass Two(Classification): pass\n"
    path = official.write_text(tmp_path / "two.py", two)
    with pytest.raises(TaskError, match="its tasks are One, Two"):
        load_task(str(path))
    with pytest.raises(TaskError, match="defines no task 'Tow': did you mean 'Two'"):
        load_task(f"{path}:Tow")
    assert type(load_task(f"{path}:Two")).__name__ == "Two"
    with pytest.raises(TaskError, match="alias 'My Pets' in 'My Pets=classification' must be of"):
        load_task("My Pets=classification")
    with pytest.raises(TaskError, match="did you mean 'classification'"):
        load_task("pets=clasification")


def test_entry_points_add_tasks_and_clashes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str, value: str) -> None:
        entry = metadata.EntryPoint(name=name, value=value, group="multi_encoder_fusion.tasks")
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: [entry])

    installed("weather", "tasks.own:Classification")
    assert isinstance(load_task("weather"), Classification)
    installed("vqa", "somewhere:Else")
    with pytest.raises(TaskError, match="'vqa' is claimed by tasks.vqa:Vqa and by somewhere:Else"):
        load_task("coco")
    installed("weather", "no_such_module:Task")
    with pytest.raises(TaskError, match="'weather' of an installed package cannot be loaded"):
        load_task("weather")


def _world(folder: Path) -> None:
    official.write_json(folder / "dataset_coco.json", official.coco())
    official.write_json(folder / "dataset_flickr30k.json", official.flickr())
    for source in ("train2014", "val2014"):
        official.write_vqa(folder, source, list(range(1, 21)))
    for source in ("train", "val", "testdev"):
        questions = {f"{k}": official.gqa_question(f"{k}", ("red", "blue")[k % 2]) for k in range(6)}
        official.write_json(folder / f"{source}_balanced_questions.json", questions)
    for part in ("train", "dev", "test"):
        records = [official.snli_record(image=f"{k}", number=k) for k in range(6)]
        official.write_lines(folder / f"snli_ve_{part}.jsonl", records)
    for part in ("train", "dev_seen", "test_seen"):
        official.write_lines(folder / f"{part}.jsonl", [official.meme(k, k % 2) for k in range(6)])


def test_built_in_tasks_conform(tmp_path: Path) -> None:
    """Each task finds its own files, though all six datasets lie in one folder."""
    _world(tmp_path)
    for name in TASKS:
        check_task(load_task(name), tmp_path)


class Wrong(Classification):
    """Breaks one clause, named by `clause`."""

    clause = ""

    def records(self, folder: Path, split: str):  # type: ignore[no-untyped-def]
        for position, (example,) in enumerate(super().records(folder, split)):
            image = "../x.png" if self.clause == "stay" else example.image
            yield (Example(id=example.id, image=image, text=example.text, target=example.target),)
            if self.clause == "twice" and position == self.__dict__.setdefault("reads", 0):
                self.__dict__["reads"] += 1
                return

    def value(self, answers: list[Answer]) -> float:  # type: ignore[override]
        if self.clause == "fraction":
            return 50.0
        return float(answers[0].id == "x0") if self.clause == "order" else super().value(answers)

    def judge(self, example: Example, prediction: Prediction) -> Answer:
        swapped = Prediction("b" if prediction.text == "a" else "a") if self.clause == "judged" else prediction
        return super().judge(example, swapped)


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ("stay", "leaves the image root"),
        ("twice", "reading 'train' twice gives the same"),
        ("fraction", r"the metric is a fraction in \[0, 1\], not 50"),
        ("order", "does not depend on the order"),
        ("judged", "read back and judged as the answers were"),
    ],
)
def test_a_broken_contract_is_named(tmp_path: Path, clause: str, message: str) -> None:
    folder = _own(tmp_path, "classification", [*LABELS, LABELS[0] | {"id": "x3"}], "jsonl")
    task: Task = type("Wrong", (Wrong,), {"clause": clause})()
    with pytest.raises(TaskError, match=message):
        check_task(task, folder)


def test_a_split_column_in_other_spellings(tmp_path: Path) -> None:
    """Usual spellings are read, and no row is lost in silence to another."""
    parts = ["train", "Valid", "validation", "dev", "val", "TEST "]
    rows: list[dict[str, object]] = [
        {"image": f"{k}.png", "label": "a", "question": "what?", "answer": "a", "caption": "a", "split": part}
        for k, part in enumerate(parts)
    ]
    for name in ("classification", "questions", "pairs"):
        file = tmp_path / name / "everything.jsonl"
        official.write_lines(file, rows)
        read = {part: load_task(name).read(tmp_path / name, part).images() for part in ("train", "select", "test")}
        assert read == {
            "train": ["0.png"],
            "select": ["1.png", "2.png", "3.png", "4.png"],
            "test": ["5.png"],
        }
        for wrong, near in (("training", "train"), ("tset", "test")):
            official.write_lines(file, [*rows, rows[0] | {"split": wrong}])
            with pytest.raises(DatasetError, match=rf"line 7: split '{wrong}' is none of .*: did you mean '{near}'"):
                load_task(name).read(tmp_path / name, "select")
    official.write_lines(tmp_path / "named" / "valid.jsonl", LABELS)
    assert len(load_task("classification").read(tmp_path / "named", "select").examples) == 3
