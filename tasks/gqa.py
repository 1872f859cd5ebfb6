"""GQA from its official question files (`train_all` as a folder of ten included), or the formats of `tasks.gqa_rows`.

Balanced splits are the default; testdev is the logical `test`. Unbalanced (`*_all`) splits are read for consistency,
which scores entailed questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_by, mean_score
from tasks.discovery import Found
from tasks.embedded import Embedded
from tasks.exports import write_text
from tasks.gqa_metrics import GqaScores, gqa_scores
from tasks.gqa_rows import embedded_places, examples_of, question_tables, read_choices, read_questions
from tasks.vocabulary import Vocabulary, label_vocabulary, read_vocabulary

__all__ = ["Gqa", "read_choices", "read_questions"]

SOURCE = {"train": "train_balanced", "select": "val_balanced", "test": "testdev_balanced"}
OFFICIAL = tuple(
    [
        f"{split}_{part}"
        for split in ("train", "val", "testdev", "test", "challenge")
        for part in ("balanced", "all")
    ]
    + ["submission_all"]
)


@dataclass(frozen=True)
class Gqa(Task):
    """Compositional question answering; exact match with one answer.

    Attributes:
        vocabulary_file: a file with the vocabulary, in place of every distinct answer of the training split.
    """

    name = "gqa"
    metric = "accuracy"
    logical: ClassVar = SOURCE
    official = OFFICIAL
    image_folders = ("images", "", "../images", "../gqa/images")

    vocabulary_file: str | None = None

    def tables(self, folder: Path, split: str) -> list[Found]:
        return question_tables(folder, SOURCE.get(split, split))

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        for example in examples_of(folder, SOURCE.get(split, split)):
            yield (example,)

    def embedded(
        self, folder: Path, split: str, examples: Sequence[Example]
    ) -> Iterable[tuple[str, Embedded]]:
        wanted = {example.image for example in examples}
        return [place for place in embedded_places(folder, SOURCE.get(split, split)) if place[0] in wanted]

    def objective(self, train: Split, width: int) -> Objective:
        from tasks.labels import label_objective

        return label_objective(self.name, train, width, labels=self.vocabulary(train).answers)

    def vocabulary(self, train: Split) -> Vocabulary:
        """Every distinct answer of the split, or those of the user's file."""
        if self.vocabulary_file is not None:
            return read_vocabulary(Path(self.vocabulary_file))
        return label_vocabulary(
            example.target for example in train.examples if isinstance(example.target, str)
        )

    def value(self, answers: Sequence[Answer]) -> float:
        return mean_score(answers)

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Open and binary accuracy and those by type; `scores` has the metrics that need question files."""
        parts = {
            "open": [answer for answer in answers if answer.slices.get("structural") == "query"],
            "binary": [answer for answer in answers if answer.slices.get("structural", "query") != "query"],
        }
        found = {name: mean_score(part) for name, part in parts.items() if part}
        return found | mean_by(answers, "structural") | mean_by(answers, "semantic")

    def scores(self, folder: Path, split: str, predictions: Mapping[str, str]) -> GqaScores:
        """Every official metric, with consistency where `*_all` was predicted, choices where the folder has
        them.

        Args:
            split: a balanced split with public answers.
            predictions: question id -> answer; may hold unbalanced questions as well.
        """
        source = SOURCE.get(split, split)
        family = source.split("_")[0]
        questions = read_questions(folder, source)
        wanted = {other for question in questions.values() for other in question.entailed}
        if source.endswith("balanced") and (wanted & predictions.keys()) - questions.keys():
            questions = read_questions(folder, f"{family}_all") | questions
        return gqa_scores(questions, predictions, read_choices(folder, family))

    def baselines(self, train: Split, test: Split) -> Baselines:
        """Chance is 1 / vocabulary; the prior is the most frequent training answer of the question's detailed
        type.
        """
        from tasks.labels import label_baselines

        return label_baselines(train, test, chance=1 / len(self.vocabulary(train)), kind="detailed")

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """The predictions file that `eval.py` and the server take."""
        write_text(
            path,
            json.dumps([{"questionId": answer.id, "prediction": answer.prediction} for answer in answers]),
        )
