"""VQAv2 from its official question and annotation files.

The public test splits (test2015, test-dev2015) have no answers, so the logical `test` is val2014, all of it,
as the official validation score needs; to choose models without it, the last tenth of train2014's images (by
first appearance among the questions) is held out of `train` as `select`. Targets are the ten raw annotator
answers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_by, mean_score
from tasks.errors import DatasetError, TaskError
from tasks.exports import write_text
from tasks.files import Record, find_file, load_json
from tasks.paths import relative_image
from tasks.vocabulary import VQA_MIN_COUNT, Vocabulary, soft_targets, vqa_consensus, vqa_vocabulary
from tasks.vqa_accuracy import vqa_accuracy

ANSWERED = ("train2014", "val2014")
OFFICIAL = (*ANSWERED, "test2015", "test-dev2015")
SOURCE = {"train": "train2014", "select": "train2014", "test": "val2014"}
FOLDERS = ("", "questions", "annotations")


@dataclass(frozen=True)
class Vqa(Task):
    """Visual question answering scored by annotator agreement.

    Attributes:
        min_count: how many questions must have an answer as their consensus for it to enter the vocabulary.
    """

    name = "vqa"
    metric = "vqa_accuracy"
    logical: ClassVar = {
        "train": "train2014 without its last tenth of images",
        "select": "the last tenth of train2014's images",
        "test": "val2014",
    }
    official = OFFICIAL
    image_folders = ("", "images", "../coco", "../coco/images", "..")

    min_count: int = VQA_MIN_COUNT

    def source(self, folder: Path, split: str) -> Path:
        name = f"v2_OpenEnded_mscoco_{SOURCE.get(split, split)}_questions.json"
        return find_file(folder, (name,), under=FOLDERS)

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        source, file = SOURCE.get(split, split), self.source(folder, split)
        questions = Record(load_json(file), file=file, name=None).items("questions")
        records = [
            Record(item, file=file, name=f"questions[{position}]") for position, item in enumerate(questions)
        ]
        annotations = _annotations(folder, source) if source in ANSWERED else None
        kept = _part(records, split)
        for record, keep in zip(records, kept, strict=True):
            example = _example(record, source, annotations)
            if keep:
                yield (example,)
        if annotations:
            left = next(iter(annotations.values()))
            raise left.error(f"{len(annotations)} annotations have no question in {file.name}")

    def objective(self, train: Split, width: int) -> Objective:
        import torch

        from tasks.objectives import SoftTargetObjective, raw_answers

        vocabulary = self.vocabulary(train)
        prior = torch.zeros(len(vocabulary))
        for example in train.examples:
            for column, value in soft_targets(raw_answers(example), vocabulary).items():
                prior[column] += value / len(train.examples)
        return SoftTargetObjective(task=self.name, width=width, vocabulary=vocabulary.answers, prior=prior)

    def vocabulary(self, train: Split) -> Vocabulary:
        """The answers a model trained on this split can give."""
        consensus = (
            str(example.extra["consensus"]) for example in train.examples if "consensus" in example.extra
        )
        return vqa_vocabulary(consensus, min_count=self.min_count)

    def value(self, answers: Sequence[Answer]) -> float:
        return mean_score(answers)

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Accuracy by answer type and by question type, as the official script prints them."""
        return mean_by(answers, "answer_type") | mean_by(answers, "question_type")

    def baselines(self, train: Split, test: Split) -> Baselines:
        """Chance is 1 / vocabulary; majority and prior answer with the training consensus."""
        vocabulary = self.vocabulary(train)
        counts: dict[str, Counter[str]] = {}
        overall: Counter[str] = Counter()
        for example in train.examples:
            consensus = str(example.extra.get("consensus", ""))
            if consensus in vocabulary.index:
                overall[consensus] += 1
                counts.setdefault(example.slices.get("question_type", ""), Counter())[consensus] += 1
        majority = overall.most_common(1)[0][0]
        best = {kind: answers.most_common(1)[0][0] for kind, answers in counts.items()}
        by_majority, by_prior = [], []
        for example in test.examples:
            if not isinstance(example.target, tuple):
                raise TaskError(f"split {test.name!r} of vqa has no public answers to score a baseline on")
            by_majority.append(vqa_accuracy(majority, example.target))
            by_prior.append(
                vqa_accuracy(best.get(example.slices.get("question_type", ""), majority), example.target)
            )
        return Baselines(
            chance=1 / len(vocabulary),
            majority=sum(by_majority) / len(by_majority),
            prior=sum(by_prior) / len(by_prior),
        )

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """The results file that the official evaluation and server take."""
        rows = [{"question_id": int(answer.id), "answer": answer.prediction} for answer in answers]
        write_text(path, json.dumps(rows))


def _annotations(folder: Path, source: str) -> dict[str, Record]:
    file = find_file(folder, (f"v2_mscoco_{source}_annotations.json",), under=FOLDERS)
    found: dict[str, Record] = {}
    for position, item in enumerate(Record(load_json(file), file=file, name=None).items("annotations")):
        record = Record(item, file=file, name=f"annotations[{position}]")
        key = str(record.integer("question_id"))
        if key in found:
            raise DatasetError("the question is annotated twice", file=file, record=key)
        found[key] = record
    return found


def _part(records: Sequence[Record], split: str) -> list[bool]:
    """Which questions are in the split: images in order of first appearance, the last tenth (at least one) is
    held out.
    """
    if split not in ("train", "select"):
        return [True] * len(records)
    images = list(dict.fromkeys(record.integer("image_id") for record in records))
    held_out = set(images[len(images) - max(1, len(images) // 10) :]) if len(images) > 1 else set()
    return [(record.integer("image_id") in held_out) == (split == "select") for record in records]


def _example(record: Record, source: str, annotations: dict[str, Record] | None) -> Example:
    key, image_id = str(record.integer("question_id")), record.integer("image_id")
    folder = "test2015" if source.startswith("test") else source
    image = relative_image(
        f"{folder}/COCO_{folder}_{image_id:012d}.jpg", file=record.file, record=record.name
    )
    question = record.text("question")
    if annotations is None:
        return Example(id=key, image=image, text=question)
    annotation = annotations.pop(key, None)
    if annotation is None:
        raise DatasetError(
            "the question has no annotation (or is listed twice)", file=record.file, record=key
        )
    if annotation.integer("image_id") != image_id:
        raise annotation.error(f"image_id differs from that of question {key} ({image_id})")
    answers = tuple(answer.text("answer") for answer in annotation.records("answers"))
    if not answers:
        raise annotation.error("'answers' is empty")
    return Example(
        id=key,
        image=image,
        text=question,
        target=answers,
        slices={
            "answer_type": annotation.text("answer_type"),
            "question_type": annotation.text("question_type"),
        },
        extra={"consensus": vqa_consensus(annotation.text("multiple_choice_answer"))},
    )
