"""The official GQA metrics (`eval.py`) as fractions: accuracy, open, binary, consistency, validity,
plausibility, distribution.

Handed questions as the official files give them, predictions by question id and, where they exist, the
choices files. Answers are compared by exact string equality, without normalisation. Only balanced questions
enter a score; the others serve the consistency of those that entail them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tasks.errors import PredictionError

COMMON = frozenset(("color", "material", "shape"))  # the valid answers of every "...Common" question


@dataclass(frozen=True, slots=True)
class GqaQuestion:
    """What the metrics need of an official question.

    Attributes:
        structural: "" (as the other types) where the format of the file has no types.
        group: `groups.global`, None where null.
        steps: number of operations in the functional program, without those that ask for existence or a name at its
            end (`getStepsNum` of eval.py).
    """

    text: str
    answer: str
    structural: str
    semantic: str
    detailed: str
    balanced: bool = True
    group: str | None = None
    entailed: tuple[str, ...] = ()
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Choices:
    """Answers that make sense for a question (`valid`) and that are reasonable in the world (`plausible`)."""

    valid: frozenset[str]
    plausible: frozenset[str]


@dataclass(frozen=True)
class GqaScores:
    """Fractions in [0, 1], None where undefined; `distribution` is the official number (lower is better,
    unbounded).

    Attributes:
        consistency: None when no correct question entails another, or when an entailed question was not
            predicted.
        by: mean accuracy by "structural", "semantic", "words" and "steps".
        shares: what each question contributes to "accuracy", "consistency", "validity" and "plausibility".
    """

    accuracy: float
    open: float | None
    binary: float | None
    consistency: float | None
    validity: float | None
    plausibility: float | None
    distribution: float | None
    by: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def present(self) -> dict[str, float]:
        """The metrics that are defined, by name, `by` flattened to "structural=query"."""
        names = ("accuracy", "open", "binary", "consistency", "validity", "plausibility", "distribution")
        flat = {name: value for name in names if (value := getattr(self, name)) is not None}
        return flat | {
            f"{key}={part}": value for key, parts in self.by.items() for part, value in parts.items()
        }


def gqa_scores(
    questions: Mapping[str, GqaQuestion],
    predictions: Mapping[str, str],
    choices: Mapping[str, Choices] | None = None,
) -> GqaScores:
    """All metrics of one set of predictions.

    Args:
        questions: by id; consistency needs the entailed (unbalanced) ones among them.
        predictions: by id; every balanced question needs one.
        choices: by id, or None where the split has none (testdev).

    Raises:
        PredictionError: a balanced question has no prediction, or there are no balanced questions.
    """
    balanced = {key: question for key, question in questions.items() if question.balanced}
    missing = [key for key in balanced if key not in predictions]
    if missing:
        raise PredictionError(
            f"{len(missing)} of {len(balanced)} balanced questions have no prediction, such as {missing[0]!r}"
        )
    if not balanced:
        raise PredictionError("there are no balanced questions to score")
    correct = {key: float(predictions[key] == question.answer) for key, question in balanced.items()}
    shares = {
        "accuracy": correct,
        "consistency": _consistency(balanced, questions, predictions, correct) or {},
        "validity": _membership(balanced, predictions, choices, "valid") or {},
        "plausibility": _membership(balanced, predictions, choices, "plausible") or {},
    }
    return GqaScores(
        accuracy=_present_mean(correct.values()) or 0.0,
        open=_present_mean(
            correct[key] for key, question in balanced.items() if question.structural == "query"
        ),
        binary=_present_mean(
            correct[key] for key, question in balanced.items() if question.structural not in ("query", "")
        ),
        consistency=_present_mean(shares["consistency"].values()),
        validity=_present_mean(shares["validity"].values()),
        plausibility=_present_mean(shares["plausibility"].values()),
        distribution=_distribution(balanced, predictions),
        by=_breakdowns(balanced, correct),
        shares=shares,
    )


def _breakdowns(
    balanced: Mapping[str, GqaQuestion], correct: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Mean accuracy by structural type, semantic type, number of words and number of steps."""
    parts: dict[str, dict[str, list[float]]] = {
        name: defaultdict(list) for name in ("structural", "semantic", "words", "steps")
    }
    for key, question in balanced.items():
        parts["structural"][question.structural].append(correct[key])
        parts["semantic"][question.semantic].append(correct[key])
        parts["words"][str(len(question.text.split()))].append(correct[key])
        parts["steps"][str(question.steps)].append(correct[key])
    return {
        name: {part: sum(values) / len(values) for part, values in sorted(found.items())}
        for name, found in parts.items()
    }


def _present_mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def _consistency(
    balanced: Mapping[str, GqaQuestion],
    questions: Mapping[str, GqaQuestion],
    predictions: Mapping[str, str],
    correct: Mapping[str, float],
) -> dict[str, float] | None:
    means: dict[str, float] = {}
    for key, question in balanced.items():
        entailed = [other for other in question.entailed if other != key]
        if not correct[key] or not entailed:
            continue
        if any(other not in questions or other not in predictions for other in entailed):
            return None
        means[key] = sum(predictions[other] == questions[other].answer for other in entailed) / len(entailed)
    return means


def _membership(
    balanced: Mapping[str, GqaQuestion],
    predictions: Mapping[str, str],
    choices: Mapping[str, Choices] | None,
    which: str,
) -> dict[str, float] | None:
    if choices is None or any(
        key not in choices and "Common" not in q.detailed for key, q in balanced.items()
    ):
        return None
    hits: dict[str, float] = {}
    for key, question in balanced.items():
        allowed: frozenset[str] = COMMON if "Common" in question.detailed else getattr(choices[key], which)
        hits[key] = float(predictions[key] in allowed)
    return hits


def _distribution(balanced: Mapping[str, GqaQuestion], predictions: Mapping[str, str]) -> float | None:
    """Chi-square of predicted against gold answers in each global group, weighted by group size, over 100."""
    gold: dict[str, Counter[str]] = defaultdict(Counter)
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for key, question in balanced.items():
        if question.group is not None:
            gold[question.group][question.answer] += 1
            said[question.group][predictions[key]] += 1
    total = sum(counts.total() for counts in gold.values())
    if not total:
        return None
    chi = {
        group: sum((said[group][a] - n) ** 2 / n for a, n in counts.items()) for group, counts in gold.items()
    }
    return sum(chi[group] * counts.total() for group, counts in gold.items()) / total / 100
