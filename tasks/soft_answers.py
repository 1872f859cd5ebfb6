"""What an open answer is worth: by the annotators' raw answers (VQA accuracy), or by weights that the file states.

LXMERT's files and a user's own may hold {answer: weight} in the place of ten raw answers; examples carry them as
`extra["weights"]`, and an answer is then worth its weight, 0 if it has none.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.examples import Example
from tasks.files import Record
from tasks.vocabulary import Vocabulary, soft_targets
from tasks.vqa_accuracy import vqa_accuracy


def raw_answers(example: Example) -> tuple[str, ...]:
    """The annotators' answers; none on splits without public answers."""
    return example.target if isinstance(example.target, tuple) else ()


def answer_weights(example: Example) -> Mapping[str, float] | None:
    """The stated weights; None where there are raw answers or no answers at all."""
    weights = example.extra.get("weights")
    return weights if isinstance(weights, Mapping) else None


def answer_score(prediction: str, example: Example) -> float | None:
    """What the answer scores, in [0, 1]; None where the split has no public answers."""
    weights = answer_weights(example)
    if weights is not None:
        return float(weights.get(prediction, 0.0))
    given = raw_answers(example)
    return vqa_accuracy(prediction, given) if given else None


def answer_targets(example: Example, vocabulary: Vocabulary) -> dict[int, float]:
    """Class index -> soft target."""
    weights = answer_weights(example)
    if weights is None:
        return soft_targets(raw_answers(example), vocabulary)
    return {vocabulary.index[answer]: float(w) for answer, w in weights.items() if answer in vocabulary.index}


def read_weights(record: Record, key: str) -> dict[str, float]:
    """{answer: weight in [0, 1]}, or the Hub's {"ids": [answer], "weights": [weight]}, or a list of answers worth 1."""
    value = record.get(key)
    if isinstance(value, list):
        return dict.fromkeys(record.texts(key), 1.0)
    inner = record.record(key)
    if inner.fields.keys() == {"ids", "weights"}:
        answers, weights = inner.texts("ids"), inner.items("weights")
        if len(answers) != len(weights):
            raise record.error(f"{key!r} has {len(answers)} answers but {len(weights)} weights")
        pairs = dict(zip(answers, weights, strict=True))
    else:
        pairs = {answer: weight for answer, weight in inner.fields.items() if weight is not None}
    found = {}
    for answer, weight in pairs.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
            raise record.error(f"{key!r} gives {ascii(answer)[:40]} the weight {ascii(weight)[:40]}, not one in [0, 1]")
        try:
            answer.encode()
        except UnicodeEncodeError:
            raise record.error(f"an answer of {key!r} holds half of a surrogate pair") from None
        found[answer] = float(weight)
    return found
