"""The data that tasks hand on: an `Example` to answer, its `Split`, and a model's `Answer`.

Nothing here imports torch, so reading and scoring work without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tasks.errors import DatasetError, TaskError
from tasks.paths import resolve_image

Target = str | tuple[str, ...] | None
Credit = Callable[[str, str], float]
"""What an answer scores, in [0, 1], given the target."""


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to answer.

    Attributes:
        id: the official record id as a string (question id, pairID, caption's sentid, meme id).
        image: image path relative to the image root, the unit that intervals resample.
        text: the only text a model may see.
        target: a label, ten raw annotator answers (vqa), or None (retrieval, and splits without public
            answers).
        slices: names of parts of the test set this example belongs to, such as {"answer_type": "number"}.
        extra: what the task's own metric needs besides; never shown to a model.
    """

    id: str
    image: str
    text: str
    target: Target = None
    slices: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Split:
    """Examples of one split, in the order of the official file, and where their images lie.

    Attributes:
        name: the split that was asked for ("train", "select", "test" or an official name).
        official: which official split or part of it this is, in words that a report may print.
        excluded: images that were left out with their examples, to be recorded in every result.
        searched: where the image root was looked for: a folder, and places relative to it.
    """

    examples: list[Example]
    image_root: Path
    name: str
    official: str
    excluded: tuple[str, ...] = ()
    searched: tuple[Path, tuple[str, ...]] | None = None

    def without(self, images: Collection[str]) -> Split:
        """The split without these images' examples. Raises TaskError if none are left."""
        gone = tuple(image for image in self.images() if image in images)
        if not gone:
            return self
        left = [example for example in self.examples if example.image not in images]
        if not left:
            raise TaskError(f"split {self.name!r} has no example left without its {len(gone)} excluded images")
        return replace(self, examples=left, excluded=(*self.excluded, *gone))

    def image_path(self, example: Example) -> Path:
        """The example's image file. Raises DatasetError if the path leaves the image root."""
        return resolve_image(self.image_root, example.image, file=self.image_root, record=example.id)

    def images(self) -> list[str]:
        """Distinct images in order of first appearance, relative to `image_root`."""
        return list(dict.fromkeys(example.image for example in self.examples))

    def check_images(
        self, on_missing: Literal["raise", "list"] = "raise", *, remedy: str = "name their folder with images=FOLDER"
    ) -> list[str]:
        """Looks for every image file; returns those that are missing (none, unless `on_missing="list"`).

        Args:
            remedy: what a user can do about it, for the error.

        Raises:
            DatasetError: images are missing; names how many, the first few, and where all were looked for.
        """
        missing = []
        for image in self.images():
            try:
                present = resolve_image(self.image_root, image, file=self.image_root).is_file()
            except OSError:  # a name the file system cannot hold
                present = False
            if not present:
                missing.append(image)
        if missing and on_missing == "raise":
            few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            number = len(self.images())
            problem = f"{len(missing)} of {number} images of split {self.name!r} are missing: {few}"
            folder = self.image_root
            if self.searched is not None and len(missing) == number:
                folder, places = self.searched
                problem += f" (looked in {', '.join(places)})"
            raise DatasetError(f"{problem}; put them there, or {remedy}", file=folder)
        return missing


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model answered to one example: a row of `answers/*.parquet`.

    Attributes:
        direction: "" except for retrieval: "i2t" (an image asks for its captions) or "t2i".
        score: the example's share of the primary metric, so that the metric is the mean; None where the
            metric is of the set (AUROC) or the split has no public answers.
        probability: of the prediction; for `hateful_memes` of class "1"; None for retrieval.
        logprob: log of the probability, normalised over the answers, of the target; None where it is out of
            vocabulary.
        rank: retrieval only, 1 is best; ties count against the model.
    """

    id: str
    image: str
    direction: Literal["", "i2t", "t2i"]
    prediction: str
    target: str
    score: float | None
    probability: float | None
    logprob: float | None
    rank: int | None
    slices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Baselines:
    """What the primary metric is without looking.

    Attributes:
        chance: uniform guessing (over the vocabulary; random ranking of the gallery; AUROC of a constant).
        majority: always the training split's most frequent answer; equal to chance where that has no meaning.
        prior: the most frequent training answer of each question type; None where questions have no types.
    """

    chance: float
    majority: float
    prior: float | None = None


def exact(prediction: str, target: str) -> float:
    """1 where an answer equals the target, else 0."""
    return float(prediction == target)


def mean_score(answers: Sequence[Answer]) -> float:
    """Mean share of the primary metric. Raises TaskError when there is nothing to score."""
    scores = [answer.score for answer in answers if answer.score is not None]
    if not answers or len(scores) < len(answers):
        raise TaskError(
            f"{len(answers) - len(scores)} of {len(answers)} answers have no score: "
            "the split has no public answers"
        )
    return sum(scores) / len(scores)


def mean_by(answers: Sequence[Answer], key: str) -> dict[str, float]:
    """Mean score of each part of the set, as {"key=part": mean}."""
    parts: dict[str, list[Answer]] = {}
    for answer in answers:
        if key in answer.slices:
            parts.setdefault(answer.slices[key], []).append(answer)
    return {f"{key}={part}": mean_score(parts[part]) for part in sorted(parts)}
