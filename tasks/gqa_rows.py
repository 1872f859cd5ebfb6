"""GQA questions out of every format in which they are handed around, streamed.

Handed a folder and an official split; hands on examples, and what the official metrics need of each question. Ids of
questions and images stay strings (they have leading zeros and letters).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from tasks.discovery import Found, Shape, annotation_files, companion, find_tables
from tasks.embedded import Embedded
from tasks.errors import AbsentError, DatasetError
from tasks.examples import Example
from tasks.files import Record, load_json, valid_text
from tasks.gqa_metrics import Choices, GqaQuestion
from tasks.paths import relative_image
from tasks.soft_answers import read_weights
from tasks.tables import open_table

ANSWERED = ("train", "val", "testdev")
OFFICIAL = Shape("official JSON", ("imageId", "question"), containers=("keyed",))
HUB = Shape("Hub table", ("id", "imageId", "question"))
LXMERT = Shape("LXMERT JSON", ("question_id", "img_id", "sent"))
LAVIS = Shape("LAVIS/ALBEF JSON", ("question_id", "question", "image"))
SHAPES = (OFFICIAL, HUB, LXMERT, LAVIS)
KEYS = {OFFICIAL: "", HUB: "id", LXMERT: "question_id", LAVIS: "question_id"}
NAMED_PART = re.compile(r"(?:^|[^a-z])(train|val|testdev|test|challenge|submission)_(all|balanced)_?(images)?")
STEMS = {
    "train": "train_balanced",
    "valid": "val_balanced",
    "val": "val_balanced",
    "testdev": "testdev_balanced",
    "test": "test_balanced",
    "submit": "submission_all",
}
UNBALANCED = {"balanced": "no"}
"""The slice of questions that enter no official score; those of balanced splits have no such slice."""
ASKING = ("exist", "query: name", "choose name")
QUOTED = re.compile(r"""['"]([^'"]+)['"]""")


def named_part(relative: str) -> str | None:
    """The split that a file's path tells; "" for files of images."""
    found = NAMED_PART.search(relative)
    if found:
        return "" if found[3] else f"{found[1]}_{found[2]}"
    return STEMS.get(relative.rpartition("/")[2].partition(".")[0], "")


def question_tables(folder: Path, source: str) -> list[Found]:
    """The file of an official split, or its numbered files."""
    expected = (f"{source}_questions.json",)
    return find_tables(folder, part=source, part_of=named_part, shapes=SHAPES, expected=expected)


def question_records(folder: Path, source: str) -> Iterator[tuple[str, Record, Shape]]:
    """Question records by id, streamed from one file or several."""
    for found in question_tables(folder, source):
        key_field = KEYS[found.shape]
        for record in found.table.rows():
            if key_field:
                key = record.identifier(key_field)
            else:
                key = valid_text(record.name, what="a question id", file=record.file, record=ascii(record.name))
            yield key, record, found.shape


def examples_of(folder: Path, source: str) -> Iterator[Example]:
    """All questions of an official split."""
    answered = source.split("_")[0] in ANSWERED
    for key, record, shape in question_records(folder, source):
        yield _example(key, record, shape, answered=answered)


def read_questions(folder: Path, source: str) -> dict[str, GqaQuestion]:
    """What the official metrics need of each question of an official split with answers."""
    questions: dict[str, GqaQuestion] = {}
    for key, record, shape in question_records(folder, source):
        if key in questions:
            raise DatasetError("the id is used twice", file=record.file, record=key)
        questions[key] = _question(record, shape)
    return questions


def read_choices(folder: Path, family: str, *, of: Path | None = None) -> dict[str, Choices] | None:
    """The choices of "train" or "val"; None where there is no such file (testdev has none).

    Args:
        of: the questions file; of several files of choices, the one nearest to it (else to the folder) is read.
    """
    try:
        file = companion(folder, f"{family}_choices.json", of=of or folder / f"{family}_questions.json")
    except AbsentError:
        return None
    outer = Record(load_json(file, repeated_keys="refuse"), file=file, name=None)
    choices = {}
    for key in outer.fields:
        record = Record(outer.fields[key], file=file, name=key)
        choices[key] = Choices(
            valid=frozenset(record.texts("valid")), plausible=frozenset(record.texts("plausible"))
        )
    return choices


def embedded_places(folder: Path, source: str) -> Iterator[tuple[str, Embedded]]:
    """Images of the Hub's `{split}_images` tables, which questions join on `imageId`."""
    for file in annotation_files(folder):
        found = NAMED_PART.search(file.relative_to(folder).as_posix().lower())
        if found and found[3] and f"{found[1]}_{found[2]}" == source:
            for row, record in enumerate(open_table(file).rows()):
                name = f"{record.identifier('id').removesuffix('.jpg')}.jpg"
                yield relative_image(name, file=file, record=record.name), Embedded(file, row)


def _example(key: str, record: Record, shape: Shape, *, answered: bool) -> Example:
    image_key = {LXMERT: "img_id", LAVIS: "image"}.get(shape, "imageId")
    image = record.identifier(image_key).removesuffix(".jpg")
    kinds = _types(record) if answered or record.present("types") else None
    return Example(
        id=key,
        image=relative_image(f"{image}.jpg", file=record.file, record=record.name),
        text=record.text("sent" if shape is LXMERT else "question"),
        target=_answer(record, shape) if answered or record.present("answer") else None,
        slices=_slices(kinds, unbalanced=record.fields.get("isBalanced") is False),
        extra={} if kinds is None else _extra(kinds[2]),
    )


def _answer(record: Record, shape: Shape) -> str:
    if shape is not LXMERT:
        return record.text("answer")
    weights = read_weights(record, "label")
    if len(weights) != 1:
        raise record.error(f"'label' must hold one answer, not {len(weights)}")
    return next(iter(weights))


def _types(record: Record) -> tuple[str, str, str] | None:
    """Structural, semantic and detailed type; None where the format has no types."""
    if "types" not in record.fields and record.present("img_id", "image"):
        return None
    types = record.record("types")
    return types.text("structural"), types.text("semantic"), types.text("detailed")


@lru_cache(maxsize=1024)
def _slices(kinds: tuple[str, str, str] | None, *, unbalanced: bool) -> Mapping[str, str]:
    typed = {} if kinds is None else {"structural": kinds[0], "semantic": kinds[1]}
    return typed | UNBALANCED if unbalanced else typed


@lru_cache(maxsize=1024)
def _extra(detailed: str) -> Mapping[str, object]:
    return {"detailed": detailed}


def _question(record: Record, shape: Shape) -> GqaQuestion:
    if shape in (LXMERT, LAVIS):
        text = record.text("sent" if shape is LXMERT else "question")
        return GqaQuestion(text=text, answer=_answer(record, shape), structural="", semantic="", detailed="")
    types, groups = record.record("types"), record.record("groups")
    balanced = record.get("isBalanced")
    if not isinstance(balanced, bool):
        raise record.error("'isBalanced' must be true or false")
    return GqaQuestion(
        text=record.text("question"),
        answer=record.text("answer"),
        structural=types.text("structural"),
        semantic=types.text("semantic"),
        detailed=types.text("detailed"),
        balanced=balanced,
        group=None if groups.get("global") is None else groups.text("global"),
        entailed=_entailed(record),
        steps=sum(not _asks(step) for step in record.records("semantic")),
    )


def _asks(step: Record) -> bool:
    """Whether an operation puts the question and finds nothing, so that `getStepsNum` of eval.py does not count it."""
    shown = f"{step.get('operation')}: {step.get('argument')}"
    return any(mark in shown for mark in ASKING)


def _entailed(record: Record) -> tuple[str, ...]:
    """Ids of entailed questions; the Hub's mirror has the list as a string."""
    value = record.get("entailed")
    if isinstance(value, str):
        return tuple(QUOTED.findall(record.text("entailed")))
    return tuple(record.texts("entailed"))
