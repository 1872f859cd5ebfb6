"""Whatever is done to an annotation file, its reader returns examples or raises one `DatasetError` that names
a file.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import official_files as official
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import load_task
from tasks.errors import DatasetError
from tasks.gqa import read_choices, read_questions

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


QUESTIONS, ANNOTATIONS = official.vqa_files([7, 8])
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
    "factors": ("hateful_memes", "test", "factors.json", {"1": {"factor": "colour"}}, json.dumps),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_records(case: str, data: st.DataObject) -> None:
    task, split, name, original, encode = CASES[case]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        official.write_vqa(folder, "val2014", [7, 8])
        official.write_lines(folder / "test_seen.jsonl", [official.meme(1), official.meme(2, 0)])
        (folder / name).write_text(encode(data.draw(damaged(original))))
        try:
            read = load_task(task).read(folder, split)
        except DatasetError as error:
            assert str(folder) in str(error)
            return
        assert read.examples
        for example in read.examples:
            example.id.encode(), example.text.encode(), example.image.encode()
            assert ".." not in Path(example.image).parts and not Path(example.image).is_absolute()
        assert isinstance(read.check_images("list"), list)


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=60, deadline=None)
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
