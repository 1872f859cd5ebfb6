"""Answer vocabularies: which answers a closed-set head can give, built from training examples by the
documented rules.

VQAv2: the consensus answer, normalised by the official rules and then freed of commas, is kept when it is the
consensus of enough questions (nine give the usual 3,129 on train and val); order of first occurrence. GQA:
every distinct answer. An answer outside the vocabulary cannot be given, and counts against the model as it
does officially.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import DatasetError, TaskError
from tasks.files import load_json, read_text, valid_text
from tasks.vqa_accuracy import normalise, share, tidy

VQA_MIN_COUNT = 9


@dataclass(frozen=True)
class Vocabulary:
    """Distinct answers in a fixed order; position is the class index.

    Raises:
        TaskError: there are no answers, or one is listed twice.
    """

    answers: tuple[str, ...]
    index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {answer: position for position, answer in enumerate(self.answers)}
        if not index:
            raise TaskError("an answer vocabulary needs at least one answer")
        if len(index) < len(self.answers):
            twice = next(answer for answer, count in Counter(self.answers).items() if count > 1)
            raise TaskError(f"answer {twice!r} is twice in the vocabulary")
        object.__setattr__(self, "index", index)

    def __len__(self) -> int:
        return len(self.answers)


def vqa_consensus(answer: str) -> str:
    """How a `multiple_choice_answer` is spelled in a VQAv2 vocabulary."""
    return normalise(tidy(answer)).replace(",", "")


def vqa_vocabulary(
    consensus: Iterable[str], *, min_count: int = VQA_MIN_COUNT, setting: str = "min_count"
) -> Vocabulary:
    """The VQAv2 vocabulary from the questions' `multiple_choice_answer`s.

    Args:
        setting: where `min_count` comes from, for messages.

    Raises:
        TaskError: no answer is the consensus of `min_count` questions.
    """
    return frequent_answers((vqa_consensus(answer) for answer in consensus), min_count=min_count, setting=setting)


def frequent_answers(answers: Iterable[str], *, min_count: int, setting: str) -> Vocabulary:
    """Answers of at least so many questions, in order of first occurrence.

    Args:
        setting: where `min_count` comes from, for messages.

    Raises:
        TaskError: there are none.
    """
    counts = Counter(answers)  # a Counter keeps the order of first occurrence
    kept = tuple(answer for answer, count in counts.items() if count >= min_count)
    if not kept:
        most = max(counts.values(), default=0)
        raise TaskError(
            f"{setting}={min_count} leaves no answer: the most frequent one has {most} questions; nearest:"
            f" {setting}={max(most, 1)}, or more questions (a higher evaluate.limit, where a run sets one)"
        )
    return Vocabulary(kept)


def label_vocabulary(labels: Iterable[str]) -> Vocabulary:
    """Every distinct label, in order of first occurrence."""
    return Vocabulary(tuple(dict.fromkeys(labels)))


def read_vocabulary(file: Path) -> Vocabulary:
    """A user's own vocabulary: an answer a line (an empty line is the empty answer), a JSON list, or a JSON object
    from answer to index as LXMERT's `trainval_ans2label.json`.

    Raises:
        DatasetError: the file is none of these, or its indices are not 0 to n - 1.
        TaskError: it holds no answer, or one twice.
    """
    text = read_text(file)
    if text.lstrip()[:1] not in ("[", "{"):
        return Vocabulary(tuple(text.removesuffix("\n").split("\n")) if text else ())
    content = load_json(file, repeated_keys="refuse")
    if isinstance(content, dict):
        index = {answer: position for answer, position in content.items() if type(position) is int}
        if sorted(index.values()) != list(range(len(content))):
            raise DatasetError(f"the indices of {len(content)} answers are not 0 to {len(content) - 1}", file=file)
        answers: list[object] = sorted(index, key=lambda answer: index[answer])
    else:
        assert isinstance(content, list)
        answers = content
    return Vocabulary(
        tuple(valid_text(item, what="an answer", file=file, record=f"[{k}]") for k, item in enumerate(answers))
    )


def write_vocabulary(vocabulary: Vocabulary, file: Path) -> None:
    """Writes a JSON list that `read_vocabulary` reads."""
    from tasks.exports import write_text

    write_text(file, json.dumps(list(vocabulary.answers), indent=0) + "\n")


def soft_targets(answers: Sequence[str], vocabulary: Vocabulary) -> dict[int, float]:
    """Class index -> soft target of the raw annotator strings: 0, .3, .6, .9, 1 for counts 0, 1, 2, 3, 4+ of
    ten.
    """
    counts = Counter(answers)
    return {
        vocabulary.index[answer]: share(count, max(10, len(answers)))
        for answer, count in counts.items()
        if answer in vocabulary.index
    }
