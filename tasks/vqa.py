"""VQAv2 from its official question and annotation files, or the formats of `tasks.vqa_rows`.

The public test splits (test2015, test-dev2015) have no answers, so the logical `test` is val2014, all of it,
as the official validation score needs; to choose models without it, the last tenth of train2014's images (by
first appearance among the questions) is held out of `train` as `select`. Targets are the ten raw annotator
answers (LXMERT's files: a weight by answer).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_by, mean_score
from tasks.discovery import Found
from tasks.errors import PredictionError, TaskError
from tasks.exports import write_text
from tasks.predictions import Prediction, read_entries
from tasks.soft_answers import answer_score, answer_targets
from tasks.vocabulary import VQA_MIN_COUNT, Vocabulary, read_vocabulary, vqa_vocabulary
from tasks.vqa_rows import PARTS, examples_of, question_tables

SOURCE = {"train": "train2014", "select": "train2014", "test": "val2014"}


@dataclass(frozen=True)
class Vqa(Task):
    """Visual question answering scored by annotator agreement.

    Attributes:
        min_count: how many questions must have an answer as their consensus for it to enter the vocabulary.
        vocabulary_file: a file with the vocabulary (see `tasks.vocabulary.read_vocabulary`), in place of that rule.
    """

    name = "vqa"
    metric = "vqa_accuracy"
    logical: ClassVar = {
        "train": "train2014 without its last tenth of images",
        "select": "the last tenth of train2014's images",
        "test": "val2014",
    }
    official = PARTS
    image_folders = ("", "images", "../coco", "../coco/images", "..")

    min_count: int = VQA_MIN_COUNT
    vocabulary_file: str | None = None

    def tables(self, folder: Path, split: str) -> list[Found]:
        return question_tables(folder, SOURCE.get(split, split))

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        examples = examples_of(folder, SOURCE.get(split, split))
        for example in examples if split not in ("train", "select") else _part(list(examples), split):
            yield (example,)

    def objective(self, train: Split, width: int) -> Objective:
        import torch

        from tasks.objectives import SoftTargetObjective

        vocabulary = self.vocabulary(train)
        prior = torch.zeros(len(vocabulary))
        for example in train.examples:
            for column, value in answer_targets(example, vocabulary).items():
                prior[column] += value / len(train.examples)
        return SoftTargetObjective(task=self.name, width=width, vocabulary=vocabulary.answers, prior=prior)

    def vocabulary(self, train: Split) -> Vocabulary:
        """The answers a model trained on this split can give."""
        if self.vocabulary_file is not None:
            return read_vocabulary(Path(self.vocabulary_file))
        consensus = (
            str(example.extra["consensus"]) for example in train.examples if "consensus" in example.extra
        )
        return vqa_vocabulary(
            consensus, min_count=self.min_count, setting=f"task_options.{self.name}.min_count"
        )

    def value(self, answers: Sequence[Answer]) -> float:
        return mean_score(answers)

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Accuracy by answer type and by question type, as the official script prints them."""
        return mean_by(answers, "answer_type") | mean_by(answers, "question_type")

    def chance(self, test: Split) -> float:
        """One of the usual vocabulary's answers."""
        return 1 / 3129

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
            guess = best.get(example.slices.get("question_type", ""), majority)
            scores = answer_score(majority, example), answer_score(guess, example)
            if scores[0] is None or scores[1] is None:
                raise TaskError(f"split {test.name!r} of vqa has no public answers to score a baseline on")
            by_majority.append(scores[0])
            by_prior.append(scores[1])
        return Baselines(
            chance=1 / len(vocabulary),
            majority=sum(by_majority) / len(by_majority),
            prior=sum(by_prior) / len(by_prior),
        )

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """The results file that the official evaluation and server take."""
        rows = []
        for answer in answers:
            if not answer.id.isdecimal():
                raise PredictionError(f"{path}: id {answer.id!r} is no VQAv2 question id, which are whole numbers")
            rows.append({"question_id": int(answer.id), "answer": answer.prediction})
        write_text(path, json.dumps(rows))

    def predictions(self, path: Path) -> dict[str, Prediction]:
        return read_entries(path, key="question_id", value="answer")

    def judge(self, example: Example, prediction: Prediction) -> Answer:
        """Scored by the annotators' agreement; the target shown is their consensus."""
        return Answer(
            id=example.id,
            image=example.image,
            direction="",
            prediction=prediction.text,
            target=str(example.extra.get("consensus", "")),
            score=answer_score(prediction.text, example),
            probability=prediction.probability,
            logprob=None,
            rank=None,
            slices=example.slices,
        )


def _part(examples: Sequence[Example], split: str) -> list[Example]:
    """The questions of train or select: images in order of first appearance, the last tenth (at least one) held out."""
    images = list(dict.fromkeys(example.image for example in examples))
    held_out = set(images[len(images) - max(1, len(images) // 10) :]) if len(images) > 1 else set()
    return [example for example in examples if (example.image in held_out) == (split == "select")]
