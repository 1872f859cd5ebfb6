"""VQA accuracy exactly as the official evaluation prints it (GT-Vision-Lab/VQA a013f00), as fractions.

Handed a prediction and the annotators' raw answers; hands on the question's accuracy. The normalisation keeps
the official script's peculiarities (they are part of the metric): no normalisation at all when all ten
answers agree, marks deleted or spaced depending on the whole text, and at most 32 periods removed because a
flag was passed in the place of a count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.errors import PredictionError

MARKS = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"\.(?!\d)", re.ASCII)
DIGIT_COMMA_DIGIT = re.compile(r"\d,\d", re.ASCII)
PERIODS_REMOVED = 32  # the value of re.UNICODE, which the official script passes as `count`
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll
how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't
should've shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's
there'd there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's
what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've
wouldn't y'all you'd you'll you're you've
"""
_SEVERAL_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've y'all'd've 'ow's'at
"""


def _contractions() -> dict[str, str]:
    table = {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    for word in _SEVERAL_APOSTROPHES.split():
        table.update({word[:at] + word[at + 1 :]: word for at, letter in enumerate(word) if letter == "'"})
    return table | {"somebody'd": "somebodyd"}  # sic


CONTRACTIONS = _contractions()


def tidy(answer: str) -> str:
    """What is done to every string, unanimous or not: newlines and tabs become spaces, ends are stripped."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalise(answer: str) -> str:
    """The normalisation that applies when annotators disagree, of a tidied answer."""
    text = answer
    thousands = DIGIT_COMMA_DIGIT.search(answer) is not None
    for mark in MARKS:
        if mark in text:
            joined = thousands or f"{mark} " in answer or f" {mark}" in answer
            text = text.replace(mark, "" if joined else " ")
    text = PERIOD.sub("", text, count=PERIODS_REMOVED)
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def compared(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """The strings that are compared for equality: normalised unless all answers agree as they stand."""
    prediction, tidied = tidy(prediction), [tidy(answer) for answer in answers]
    if len(set(tidied)) > 1:
        return normalise(prediction), [normalise(answer) for answer in tidied]
    return prediction, tidied


def share(matches: int, annotators: int = 10) -> float:
    """Mean over annotators of min(1, matches among the others / 3): 0, .3, .6, .9, 1 for 0, 1, 2, 3, 4+ of
    ten.

    In integers until the one division, so that shares are the same floats whatever the order.
    """
    agreeing, dissenting = min(3, matches - 1), min(3, matches)
    if matches == 0:
        return 0.0
    return (matches * agreeing + (annotators - matches) * dissenting) / (3 * annotators)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Official accuracy of one prediction against the raw answers of (officially ten) annotators, in [0, 1].

    Each annotator is compared with all the others: two annotators with equal answers are still two records.

    Raises:
        PredictionError: there are no annotators' answers.
    """
    if not answers:
        raise PredictionError(f"prediction {prediction!r} has no annotators' answers to be compared with")
    said, given = compared(prediction, answers)
    return share(given.count(said), len(given))


def overall(accuracies: Sequence[float]) -> float:
    """The printed overall accuracy: mean x 100, rounded to two digits."""
    if not accuracies:
        raise PredictionError("no questions to average over")
    return round(100 * sum(accuracies) / len(accuracies), 2)
