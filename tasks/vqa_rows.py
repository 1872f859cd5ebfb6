"""VQAv2 questions with their answers, out of every format in which they are handed around.

Handed a folder and an official split; hands on examples in file order. The official release keeps questions and
annotations in two files, which are joined on `question_id`; the others keep both in one. Annotations are read as a
stream and held compactly, since the training file has 4.4 million answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tasks.discovery import Found, Shape, companion, find_tables, parts_named, shard_of
from tasks.embedded import Embedded
from tasks.errors import DatasetError
from tasks.examples import Example
from tasks.files import Record
from tasks.json_stream import stream_records
from tasks.paths import relative_image
from tasks.soft_answers import read_weights
from tasks.vocabulary import vqa_consensus

ANSWERED = ("train2014", "val2014", "nominival", "minival")
PARTS = ("train2014", "val2014", "test2015", "test-dev2015", "nominival", "minival")
WITHOUT_QUESTIONS = ("_annotations.json", "_complementary_pairs.json")
QUESTIONS = Shape("official JSON", ("question_id", "question", "image_id"), envelope="questions")
LXMERT = Shape("LXMERT JSON", ("question_id", "img_id", "sent"))
LAVIS = Shape("LAVIS/ALBEF JSON", ("question_id", "question", "image"), without=("image_id",))
HUB = Shape("Hub table", ("question_id", "question", "image_id"))
SHAPES = (QUESTIONS, LXMERT, LAVIS, HUB)
NAMED_PART = re.compile(
    r"(?:^|[^a-z])(train2014|val2014|test2015|test-dev2015|nominival|minival|train|validation|val|test-?dev|test)(?:[^a-z]|$)"
)
SPELLINGS = {
    "train": "train2014",
    "validation": "val2014",
    "val": "val2014",
    "testdev": "test-dev2015",
    "test-dev": "test-dev2015",
    "test": "test2015",
}
COCO_NAME = re.compile(r"COCO_(train2014|val2014|test2015)_\d{12}")


class Annotation(NamedTuple):
    """What is kept of an official annotation."""

    image_id: int
    question_type: str
    answer_type: str
    consensus: str
    answers: tuple[str, ...]


def named_part(relative: str) -> str | None:
    """The split that a file's name tells; "" for official files without questions."""
    if relative.endswith(WITHOUT_QUESTIONS):
        return ""
    found = NAMED_PART.search(shard_of(PurePosixPath(relative))[1])
    return SPELLINGS.get(found[1], found[1]) if found else None


def question_tables(folder: Path, part: str) -> list[Found]:
    """The file of an official split; LXMERT's two halves of val2014 where that is what there is."""
    halves = ("nominival", "minival")
    names = parts_named(folder, named_part)
    if part == "val2014" and part not in names and names >= set(halves):
        return [found for half in halves for found in question_tables(folder, half)]
    expected = (f"v2_OpenEnded_mscoco_{part}_questions.json",)
    return find_tables(folder, part=part, part_of=named_part, shapes=SHAPES, expected=expected)


def examples_of(folder: Path, part: str) -> Iterator[Example]:
    """All questions of an official split.

    Raises:
        DatasetError: a record is not of its format, a question lacks its annotation, or the other way round.
    """
    tables = question_tables(folder, part)
    file, annotations = tables[0].file, None
    if tables[0].shape is QUESTIONS and part in ANSWERED:
        file = companion(folder, f"v2_mscoco_{part}_annotations.json", of=file)
        annotations = read_annotations(file)
    for found in tables:
        for record in found.table.rows():
            if found.shape is QUESTIONS:
                yield _official(record, part, annotations, file)
            elif found.shape is LXMERT:
                yield _lxmert(record)
            else:
                yield _joined(record, part)
    if annotations:
        problem = f"{len(annotations)} annotations have no question in {tables[0].file.name}"
        raise DatasetError(problem, file=file, record=str(next(iter(annotations))))


def read_annotations(file: Path) -> dict[int, Annotation]:
    """Official annotations by question id, equal strings and equal answers kept once."""
    found: dict[int, Annotation] = {}
    strings: dict[str, str] = {}
    tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
    for name, value in stream_records(file, envelope="annotations"):
        record = Record(value, file=file, name=name)
        key = record.integer("question_id")
        if key in found:
            raise DatasetError("the question is annotated twice", file=file, record=str(key))
        answers = tuple(strings.setdefault(answer, answer) for answer in _answers(record))
        texts = (record.text("question_type"), record.text("answer_type"), record.text("multiple_choice_answer"))
        kinds = [strings.setdefault(text, text) for text in texts]
        found[key] = Annotation(
            record.integer("image_id"), kinds[0], kinds[1], kinds[2], tuples.setdefault(answers, answers)
        )
    return found


def _answers(record: Record) -> list[str]:
    """The raw answers of a record, whether objects with `answer` or plain strings."""
    items = record.items("answers")
    try:
        texts = [item["answer"] for item in items]  # type: ignore[index]
        if texts and all(isinstance(text, str) and text.isascii() for text in texts):  # the usual case, millions
            return texts
    except (TypeError, KeyError, IndexError):
        pass
    if items and isinstance(items[0], str):
        return record.texts("answers")
    texts = [answer.text("answer") for answer in record.records("answers")]
    if not texts:
        raise record.error("'answers' is empty")
    return texts


def _official(record: Record, part: str, annotations: dict[int, Annotation] | None, file: Path) -> Example:
    key, image_id = record.integer("question_id"), record.integer("image_id")
    image, question = coco_image(part, image_id, record), record.text("question")
    if annotations is None:
        return Example(id=str(key), image=image, text=question)
    annotation = annotations.pop(key, None)
    if annotation is None:
        raise DatasetError("the question has no annotation (or is listed twice)", file=record.file, record=str(key))
    if annotation.image_id != image_id:
        problem = f"image_id differs from that of question {key} ({image_id})"
        raise DatasetError(problem, file=file, record=str(key))
    return Example(
        id=str(key),
        image=image,
        text=question,
        target=annotation.answers,
        slices=_slices(annotation.answer_type, annotation.question_type),
        extra=_extra(annotation.consensus),
    )


@lru_cache(maxsize=4096)
def _slices(answer_type: str, question_type: str) -> Mapping[str, str]:
    return {"answer_type": answer_type, "question_type": question_type}


@lru_cache(maxsize=1 << 16)
def _extra(consensus: str) -> Mapping[str, object]:
    return {"consensus": vqa_consensus(consensus)}


def coco_image(part: str, image_id: int, record: Record) -> str:
    """The image file of a COCO id in an official split."""
    folder = "test2015" if part.startswith("test") else part
    return relative_image(f"{folder}/COCO_{folder}_{image_id:012d}.jpg", file=record.file, record=record.name)


def _kinds(record: Record) -> dict[str, str]:
    return {key: record.text(key) for key in ("answer_type", "question_type") if record.present(key)}


def _lxmert(record: Record) -> Example:
    """A question of LXMERT's files: scores by answer in the place of ten raw answers."""
    name = record.text("img_id")
    known = COCO_NAME.fullmatch(name)
    if known is None:
        raise record.error(f"img_id {ascii(name)[:60]} is no COCO image name such as COCO_val2014_000000000042")
    example = Example(id=record.identifier("question_id"), image=f"{known[1]}/{name}.jpg", text=record.text("sent"))
    return _weighted(example, record) if record.present("label") else example


def _weighted(example: Example, record: Record) -> Example:
    weights = read_weights(record, "label")
    consensus = {"consensus": vqa_consensus(max(weights, key=lambda answer: weights[answer]))} if weights else {}
    return Example(
        id=example.id,
        image=example.image,
        text=example.text,
        target=(),
        slices=_kinds(record),
        extra={**example.extra, **consensus, "weights": weights},
    )


def _joined(record: Record, part: str) -> Example:
    """A question of a format that keeps its answers beside it."""
    image_id = record.fields.get("image_id")
    if isinstance(image_id, int):
        image = coco_image("val2014" if part in ("nominival", "minival") else part, record.integer("image_id"), record)
    else:
        name = record.text("image_id" if isinstance(image_id, str) else "image")
        known = COCO_NAME.search(name)
        image = f"{known[1]}/{known[0]}.jpg" if known else relative_image(name, file=record.file, record=record.name)
    extra: dict[str, object] = {} if record.row is None else {"embedded": Embedded(record.file, record.row)}
    example = Example(
        id=record.identifier("question_id"), image=image, text=record.text("question"), extra=extra
    )
    key = record.present("answers", "answer", "label")
    if key is None:
        if part in ANSWERED:
            raise record.error("has no answers")
        return example
    if key == "label":
        return _weighted(example, record)
    answers = tuple(_answers(record) if key == "answers" else record.texts(key))
    if not answers:
        raise record.error(f"{key!r} is empty")
    stated = record.fields.get("multiple_choice_answer") is not None
    consensus = record.text("multiple_choice_answer") if stated else max(answers, key=answers.count)
    extra = {**extra, "consensus": vqa_consensus(consensus)}
    return Example(
        id=example.id, image=image, text=example.text, target=answers, slices=_kinds(record), extra=extra
    )
