"""Whatever is done to an annotation file, its reader returns examples or raises one `DatasetError` that names
a file.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import official_files as official
import pytest
from conftest import SOAK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import load_task
from tasks.errors import DatasetError, PredictionError
from tasks.gqa import read_choices, read_questions
from tasks.json_stream import stream_records

EXAMPLES = 12 if SOAK else 1
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.just("\ud800"),
    st.just("../../x"),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


@st.composite
def damaged(draw: st.DrawFn, original: Any) -> Any:
    """The original with up to three parts replaced, removed or repeated."""
    content = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(content)))
        if not path:
            return draw(VALUES)
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        act = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if act == "remove":
            del holder[path[-1]]
        elif act == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[path[-1]]))
        else:
            holder[path[-1]] = draw(VALUES)
    return content


def _lines(records: Any) -> str:
    return "".join(
        f"{json.dumps(record)}\n" for record in (records if isinstance(records, list) else [records])
    )


def _csv(records: Any) -> str:
    """Cells joined as they are: quotes and separators in them make broken CSV too."""
    rows = records if isinstance(records, list) else [records]
    header = "id,img,label,text"
    cells = [[str(value) for value in row.values()] if isinstance(row, dict) else [str(row)] for row in rows]
    return "\n".join([header, *(",".join(row) for row in cells)]).encode(errors="replace").decode()


QUESTIONS, ANNOTATIONS = official.vqa_files([7, 8])
TEST_IMAGES = [official.karpathy_image(4, "test"), official.karpathy_image(5, "test")]
LAVIS_VQA = [
    {"image": f"val2014/COCO_val2014_{k:012d}.jpg", "question": "Is it?", "question_id": k, "answer": ["yes"] * 10}
    for k in (7, 8)
]
LXMERT_GQA = [
    {"img_id": "n161313", "question_id": f"0{k}", "sent": "What color?", "label": {"red": 1.0}} for k in (7, 8)
]
LAVIS_VE = [{"image": f"{k}.jpg", "sentence": "He is tired.", "label": "neutral"} for k in range(3)]
OWN = [{"image": f"{k}.png", "question": "what?", "answers": {"red": 1, "blue": 0.3}} for k in range(3)]
CASES: dict[str, tuple[str, str, str, Any, Callable[[Any], str]]] = {
    "coco": ("coco", "test", "dataset_coco.json", official.coco(), json.dumps),
    "flickr30k": ("flickr30k", "test", "dataset_flickr30k.json", official.flickr(), json.dumps),
    "vqa questions": ("vqa", "test", "v2_OpenEnded_mscoco_val2014_questions.json", QUESTIONS, json.dumps),
    "vqa annotations": ("vqa", "test", "v2_mscoco_val2014_annotations.json", ANNOTATIONS, json.dumps),
    "gqa": ("gqa", "test", "testdev_balanced_questions.json", official.gqa(), json.dumps),
    "snli_ve": (
        "snli_ve",
        "test",
        "snli_ve_test.jsonl",
        [official.snli_record(number=k) for k in range(3)],
        _lines,
    ),
    "memes": ("hateful_memes", "test", "test_seen.jsonl", [official.meme(1), official.meme(2, 0)], _lines),
    "lavis captions": (
        "coco",
        "test",
        "coco_karpathy_test.json",
        official.lavis_captions(TEST_IMAGES, train=False),
        json.dumps,
    ),
    "lavis rows": ("flickr30k", "train", "train.json", official.lavis_captions(TEST_IMAGES, train=True), json.dumps),
    "lavis vqa": ("vqa", "train2014", "vqa_train.json", LAVIS_VQA, json.dumps),
    "lxmert vqa": (
        "vqa",
        "minival",
        "minival.json",
        [official.lxmert_vqa(7, yes=1), official.lxmert_vqa(8, no=0.3)],
        json.dumps,
    ),
    "lxmert gqa": ("gqa", "test", "testdev.json", LXMERT_GQA, json.dumps),
    "lavis ve": ("snli_ve", "test", "ve_test.json", LAVIS_VE, json.dumps),
    "csv": ("hateful_memes", "train", "train.csv", [official.meme(1), official.meme(2, 0)], _csv),
    "own questions": ("questions", "test", "test.jsonl", OWN, _lines),
    "own classes": ("classification", "test", "test.json", [{"image": "a.png", "label": "x"}], json.dumps),
    "own pairs": ("pairs", "test", "test.jsonl", [{"image": "a.png", "caption": ["x", "y"]}], _lines),
    "factors": ("hateful_memes", "test", "factors.json", {"1": {"factor": "colour"}}, json.dumps),
}


def _texts(key: str) -> Callable[[Any], list[str]]:
    """What a list or table of records says under a key; a file of lines may hold one record alone."""
    return lambda content: [
        record[key] for record in (content.values() if key == "question" and _keyed(content) else _listed(content))
    ]


def _listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _keyed(content: Any) -> bool:
    return isinstance(content, dict) and "question" not in content


def _karpathy(*splits: str) -> Callable[[Any], list[str]]:
    return lambda content: [
        sentence["raw"]
        for image in content["images"]
        if image["split"] in splits
        for sentence in image["sentences"]
    ]


def _captions(content: Any) -> list[str]:
    found = [row["caption"] for row in _listed(content)]
    return [text for caption in found for text in (caption if isinstance(caption, list) else [caption])]


def _cells(content: Any) -> list[str]:
    return [row[3] for row in list(csv.reader(io.StringIO(_csv(content))))[1:] if row]


EXPECTED: dict[str, Callable[[Any], list[str]]] = {
    "coco": _karpathy("test"),
    "flickr30k": _karpathy("test"),
    "vqa questions": lambda content: [record["question"] for record in content["questions"]],
    "vqa annotations": lambda content: ["Is it red?"] * 2,
    "gqa": _texts("question"),
    "snli_ve": _texts("sentence2"),
    "memes": _texts("text"),
    "lavis captions": _captions,
    "lavis rows": _captions,
    "lavis vqa": _texts("question"),
    "lxmert vqa": _texts("sent"),
    "lxmert gqa": _texts("sent"),
    "lavis ve": _texts("sentence"),
    "csv": _cells,
    "own questions": _texts("question"),
    "own classes": lambda content: [record.get("text", "") for record in _listed(content)],
    "own pairs": _captions,
    "factors": lambda content: ["look"] * 2,
}
"""The texts of all records that a file holds, in order, read without the reader: records in are records out."""
GROUPED = ("lavis captions", "lavis rows", "own pairs")
"""Captions come image by image, whichever order the file has."""
OF_THE_FILE = (
    "is of no known format",
    "holds no examples",
    "holds none of",
    "is not JSON",
    "has no",
    "'annotations'",
    "expected a JSON object",
)
"""Words of errors that concern no single record."""


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=EXAMPLES * 25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_records(case: str, data: st.DataObject) -> None:
    task, split, name, original, encode = CASES[case]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        official.write_vqa(folder, "val2014", [7, 8])
        official.write_lines(folder / "test_seen.jsonl", [official.meme(1), official.meme(2, 0)])
        if task in ("questions", "classification", "pairs"):
            (folder / "test_seen.jsonl").unlink()
        content = data.draw(damaged(original))
        (folder / name).write_text(encode(content))
        try:
            read = load_task(task).read(folder, split)
        except DatasetError as error:
            assert str(folder) in str(error) and error.file is not None and folder in (error.file, *error.file.parents)
            assert error.record is not None or any(words in error.problem for words in OF_THE_FILE), error
            return
        found, expected = [example.text for example in read.examples], EXPECTED[case](content)
        assert sorted(found) == sorted(expected) if case in GROUPED else found == expected
        for example in read.examples:
            example.id.encode(), example.text.encode(), example.image.encode()
            assert ".." not in Path(example.image).parts and not Path(example.image).is_absolute()
        assert isinstance(read.check_images("list"), list)


@settings(max_examples=EXAMPLES * 60, deadline=None)
@given(data=st.data())
def test_damaged_bytes(data: st.DataObject) -> None:
    whole = bytearray(_lines([official.meme(1), official.meme(2, 0)]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "train.jsonl").write_bytes(bytes(whole[:cut]))
        try:
            load_task("hateful_memes").read(Path(scratch), "train")
        except DatasetError as error:
            assert scratch in str(error)


@settings(max_examples=EXAMPLES * 60, deadline=None)
@given(
    questions=damaged(official.gqa()), choices=damaged({"07333408": {"valid": ["red"], "plausible": ["red"]}})
)
def test_damaged_gqa_metric_files(questions: Any, choices: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        official.write_json(folder / "val_all_questions.json", questions)
        official.write_json(folder / "val_choices.json", choices)
        for read in (lambda: read_questions(folder, "val_all"), lambda: read_choices(folder, "val")):
            try:
                read()
            except DatasetError as error:
                assert scratch in str(error)


RESULTS: dict[str, tuple[str, Any, Callable[[Any], str]]] = {
    "vqa": ("vqa", [{"question_id": k, "answer": "yes"} for k in (7000, 8000)], json.dumps),
    "gqa": ("gqa", [{"questionId": f"0{k}", "prediction": "red"} for k in (7, 8)], json.dumps),
    "snli_ve": ("snli_ve", [{"pairID": f"{k}", "gold_label": "neutral"} for k in (7, 8)], _lines),
    "own": ("questions", [{"id": f"{k}", "prediction": "red", "probability": 0.5} for k in (7, 8)], _lines),
}


@pytest.mark.parametrize("case", RESULTS)
@settings(max_examples=EXAMPLES * 40, deadline=None)
@given(data=st.data())
def test_damaged_predictions(case: str, data: st.DataObject) -> None:
    """What is read has the records of the file, each once; else one PredictionError names the file."""
    task, original, encode = RESULTS[case]
    content = data.draw(damaged(original))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "said.json"
        path.write_text(encode(content))
        try:
            found = load_task(task).predictions(path)
        except PredictionError as error:
            assert scratch in str(error) or "holds no predictions" in str(error)
            return
        assert len(found) == (len(content) if isinstance(content, list) else 1)


@settings(max_examples=EXAMPLES * 60, deadline=None)
@given(data=st.data())
def test_damaged_parquet(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = official.write_parquet(Path(scratch) / "validation-00000-of-00001.parquet", [official.hub_vqa(7)])
        whole = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(whole[: data.draw(st.integers(4, len(whole)))]))
        try:
            load_task("vqa").read(Path(scratch), "val2014")
        except DatasetError as error:
            assert scratch in str(error)


@settings(max_examples=EXAMPLES * 80, deadline=None)
@given(
    records=st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
)
def test_streaming_is_plain_decoding(records: Any, chunk: int, indent: int | None) -> None:
    """Whatever the chunk, a stream yields what `json.loads` does, as a list, keyed and in an envelope."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.json_stream.CHUNK", chunk)
        path = Path(scratch) / "x.json"
        for content, envelope in ((records, None), ({"info": {}, "images": records, "z": 1}, "images")):
            path.write_text(json.dumps(content, indent=indent))
            assert repr([value for _, value in stream_records(path, envelope=envelope)]) == repr(records)
        keyed = {str(number): record for number, record in enumerate(records)}
        path.write_text(json.dumps(keyed, indent=indent))
        assert repr(dict(stream_records(path))) == repr(keyed)
        cut = path.read_text()[:-1]
        path.write_text(cut)
        with pytest.raises(DatasetError, match="is not JSON"):
            list(stream_records(path))
