"""GQA from its official question files (`train_all` as a folder of ten included), or the formats of `tasks.gqa_rows`.

Balanced splits are the default; testdev is the logical `test`. Unbalanced (`*_all`) splits are read for consistency,
which scores entailed questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_by, mean_score
from tasks.discovery import Found
from tasks.embedded import Embedded
from tasks.errors import AbsentError, TaskError
from tasks.exports import write_text
from tasks.gqa_metrics import Choices, GqaQuestion, GqaScores, gqa_scores
from tasks.gqa_rows import UNBALANCED, embedded_places, examples_of, question_tables, read_choices, read_questions
from tasks.official_scores import OfficialScores
from tasks.predictions import Prediction, read_entries
from tasks.vocabulary import Vocabulary, label_vocabulary, read_vocabulary

__all__ = ["Gqa", "read_choices", "read_questions"]

Sliced = TypeVar("Sliced", Answer, Example)

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
        """Accuracy over balanced questions, which alone the official evaluation scores."""
        return mean_score(_balanced(answers))

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Open and binary accuracy and those by type; `scores` has the metrics that need question files."""
        answers = _balanced(answers)
        parts = {
            "open": [answer for answer in answers if answer.slices.get("structural") == "query"],
            "binary": [answer for answer in answers if answer.slices.get("structural", "query") != "query"],
        }
        found = {name: mean_score(part) for name, part in parts.items() if part}
        return found | mean_by(answers, "structural") | mean_by(answers, "semantic")

    surplus = "ignore"

    def official_scores(self, folder: Path, data: Split, predictions: Mapping[str, Prediction]) -> OfficialScores:
        """Open, binary, consistency, validity, plausibility, distribution; question words and program steps."""
        kept = {example.id for example in data.examples}
        said = {key: prediction.text for key, prediction in predictions.items()}
        questions, choices = self._questions(folder, data.name, said)
        if data.excluded:  # what an excluded image's question entails stays known, but it is not scored itself
            questions = {
                key: question if key in kept else replace(question, balanced=False)
                for key, question in questions.items()
            }
        found = gqa_scores(questions, said, choices)
        correct = found.shares["accuracy"]
        typed = {key: questions[key].structural for key in correct if questions[key].structural}
        shares = {
            "open": {key: correct[key] for key, kind in typed.items() if kind == "query"},
            "binary": {key: correct[key] for key, kind in typed.items() if kind != "query"},
            **{name: part for name, part in found.shares.items() if name != "accuracy"},
        }
        unread = (_entailed(questions) & said.keys()) - questions.keys()
        absent = {
            "consistency": f"the folder holds no file of questions that others entail, such as {min(unread)!r} (*_all)"
            if unread
            else "no correct question entails another, or an entailed one was not predicted (predict *_all)",
            "validity": "the folder has no choices file for this split",
            "plausibility": "the folder has no choices file for this split",
            "distribution": "no question has a global group",
            "grounding": "needs attention over scene-graph regions, which a predictions file does not hold",
        }
        present = found.present().keys()
        return OfficialScores(
            shares={name: part for name, part in shares.items() if part},
            numbers={} if found.distribution is None else {"distribution": found.distribution},
            slices={
                key: {"words": str(len(questions[key].text.split())), "steps": str(questions[key].steps)}
                for key in typed
            },
            scored=frozenset(correct),
            not_run={name: why for name, why in absent.items() if name not in present},
        )

    def scores(self, folder: Path, split: str, predictions: Mapping[str, str]) -> GqaScores:
        """Every official metric, with consistency where `*_all` was predicted, choices where the folder has
        them.

        Args:
            split: a balanced split with public answers.
            predictions: question id -> answer; may hold unbalanced questions as well.
        """
        questions, choices = self._questions(folder, split, predictions)
        return gqa_scores(questions, predictions, choices)

    def _questions(
        self, folder: Path, split: str, predictions: Mapping[str, str]
    ) -> tuple[dict[str, GqaQuestion], dict[str, Choices] | None]:
        """The split's questions, with unbalanced ones where they were predicted, are entailed and at hand; choices."""
        source = SOURCE.get(split, split)
        family = source.split("_")[0]
        questions = read_questions(folder, source)
        if source.endswith("balanced") and (_entailed(questions) & predictions.keys()) - questions.keys():
            with suppress(AbsentError):
                questions = read_questions(folder, f"{family}_all") | questions
        return questions, read_choices(folder, family, of=self.source(folder, split))

    def chance(self, test: Split) -> float:
        """One of the usual vocabulary's answers."""
        return 1 / 1842

    def baselines(self, train: Split, test: Split) -> Baselines:
        """Chance is 1 / vocabulary; the prior is the most frequent training answer of the question's detailed
        type.
        """
        from tasks.labels import label_baselines

        scored = replace(test, examples=_balanced(test.examples))
        return label_baselines(train, scored, chance=1 / len(self.vocabulary(train)), kind="detailed")

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """The predictions file that `eval.py` and the server take."""
        write_text(
            path,
            json.dumps([{"questionId": answer.id, "prediction": answer.prediction} for answer in answers]),
        )

    def predictions(self, path: Path) -> dict[str, Prediction]:
        return read_entries(path, key="questionId", value="prediction")


def _entailed(questions: Mapping[str, GqaQuestion]) -> set[str]:
    return {other for question in questions.values() for other in question.entailed}


def _balanced(rows: Sequence[Sliced]) -> list[Sliced]:
    """Those of questions that enter a score. Raises TaskError where there are none."""
    kept = [row for row in rows if row.slices.get("balanced") != UNBALANCED["balanced"]]
    if not kept:
        raise TaskError(f"none of {len(rows)} GQA questions is balanced, and no others are scored")
    return kept
