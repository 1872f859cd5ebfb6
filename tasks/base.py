"""What a task is, and the interface that the trainer and the evaluation are written against.

A `Task` reads official files into a `Split` of `Example`s and builds an `Objective` (loss and head) from the
training split. The objective turns states of the fusion model into losses and `Answer`s; the task turns
answers into its metric.

One training step, the same for every task, over a group of examples that shares one coalition:

    # if the coalition is empty and objective.empty == "skip", draw another (retrieval has no text-only form)
    states = {}                                     # row i of every stream belongs to examples[i]
    if "joint" in objective.streams:
        states["joint"] = model.encode(texts, features, coalition)
    if "text" in objective.streams:
        states["text"] = model.encode(texts, None, ())
    if "image" in objective.streams:
        states["image"] = model.encode(None, features, coalition)
    loss = objective.loss(states, examples)         # scalar
    pairs = objective.pairs(states, Alone(examples), generator=generator)   # [] unless the objective matches
    if pairs:                                       # row p: text pairs[p].text with image pairs[p].image
        chosen = rows of features at [pair.image for pair in pairs]
        logits = model.match([texts[pair.text] for pair in pairs], chosen, coalition)
        loss = loss + objective.match_loss(logits, pairs)

`loss` and `match_loss` are two parts of one loss: add both. `texts` is `[e.text for e in examples]`, features
are looked up by image, and an image that appears twice in a batch is simply encoded twice. Where processes share
a batch, each takes `loss_of_rows(states, whole)` for its rows and those of the pairs whose image it has.

Evaluation depends on `objective.scoring`:

- "answers": batch by batch, `objective.answers(states, examples)` gives one `Answer` an example, in order.
- "gallery": the whole split at once (`tasks.retrieval_answers`). Embed each of `Gallery.of(examples).images`
  once with `objective.embed_images(pooled)` and each caption with `objective.embed_texts(pooled)`; then
  `retrieval_answers(image_embeddings @ text_embeddings.T, examples)` answers in both directions. To match,
  take `listed = shortlist(similarity, examples, size=...)`, encode `listed.pairs()` jointly, and call
  `rerank(similarity, examples, listed, logits)` with the model's logits of fit.

Then `task.value(answers)` is the official primary metric, `task.secondary(answers)` all else that is usually
quoted, and `task.baselines(train, test)` what one gets without looking.

To reload: `tasks.objectives.load_objective(objective.describe())`, then `load_state_dict`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, final

from tasks.discovery import Found
from tasks.embedded import FOLDER as UNPACKED
from tasks.embedded import Embedded, unpack
from tasks.errors import DatasetError, TaskError
from tasks.examples import Answer, Baselines, Example, Split, Target, exact, mean_by, mean_score
from tasks.files import existing_folder, read_factors
from tasks.objective import Alone, Objective, Pair, States, Stream, Whole
from tasks.official_scores import OfficialScores
from tasks.options import check_options
from tasks.paths import find_image_root, image_places
from tasks.predictions import Prediction, read_json_lines, write_json_lines

__all__ = [
    "Alone",
    "Answer",
    "Baselines",
    "Example",
    "Objective",
    "Pair",
    "Split",
    "States",
    "Stream",
    "Target",
    "Task",
    "Whole",
    "mean_by",
    "mean_score",
]


@dataclass(frozen=True)
class Task(ABC):
    """Reader, objective, metric and baselines of one dataset. Fields of a subclass are its options.

    Attributes:
        name: the name in `tasks.TASKS`.
        metric: name of the primary metric, a fraction in [0, 1], higher is better.
        logical: the splits train, select and test -> the official split in words.
        official: names of official splits that `read` takes too.
        image_folders: where images usually lie, relative to the dataset folder, likeliest first.
        scoring: "answers" where predictions are an answer an example; "gallery" where they are similarities.
        surplus: what becomes of predictions for no record of the split, in the official evaluation.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    logical: ClassVar[Mapping[str, str]]
    official: ClassVar[tuple[str, ...]]
    image_folders: ClassVar[tuple[str, ...]]
    scoring: ClassVar[Literal["answers", "gallery"]] = "answers"
    surplus: ClassVar[Literal["refuse", "ignore"]] = "refuse"

    @final
    @classmethod
    def create(cls, **options: object) -> Task:
        """The task with these options. Raises TaskError for one it does not have, or a value of the wrong kind."""
        check_options(cls, options, name=cls.name)
        return replace(cls(), **options)

    @property
    def splits(self) -> tuple[str, ...]:
        """Every name that `read` takes."""
        return tuple(dict.fromkeys((*self.logical, *self.official)))

    @final
    def read(
        self,
        folder: Path,
        split: str,
        images: Path | None = None,
        limit: int | None = None,
        *,
        embedded: Literal["unpack", "leave"] = "unpack",
    ) -> Split:
        """Reads official files.

        Args:
            folder: the dataset folder.
            split: "train", "select" or "test" (see `logical`), or an official name.
            images: where the images lie, if neither in the folder nor in a sibling's usual place.
            limit: stop after so many official records (a question; for retrieval an image with all its
                captions).
            embedded: whether images that lie inside Parquet files, and nowhere else, are written out as files.

        Raises:
            DatasetError: a file is absent or not of the official shape; names file and record.
            TaskError: the task has no such split.
        """
        if split not in self.splits:
            near = get_close_matches(split, self.splits, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TaskError(
                f"task {self.name!r} has no split {split!r}: {hint}splits are {', '.join(self.splits)}"
            )
        if limit is not None and limit < 1:
            raise TaskError(f"limit {limit} for {self.name!r} leaves nothing: give 1 or more")
        folder = existing_folder(folder)
        examples = self._examples(folder, split, limit)
        usual = (*self.image_folders, UNPACKED)
        root = find_image_root(folder, images, usual, [example.image for example in examples[:50]])
        if images is None and embedded == "unpack":
            root = self._unpacked(folder, split, examples, root)
        examples = [_without_place(example) for example in examples]
        official = self.logical.get(split, split)
        return Split(examples, root, name=split, official=official, searched=image_places(folder, images, usual))

    def _examples(self, folder: Path, split: str, limit: int | None) -> list[Example]:
        source = self.source(folder, split)
        factors = read_factors(folder)
        examples: list[Example] = []
        seen: set[str] = set()
        for example in (e for record in islice(self.records(folder, split), limit) for e in record):
            if example.id in seen:
                raise DatasetError("the id is used twice", file=source, record=example.id)
            seen.add(example.id)
            if example.id in factors:
                example = replace(example, slices={**example.slices, **factors[example.id]})
            examples.append(example)
        if not examples:
            raise DatasetError(f"split {split!r} holds no examples", file=source)
        return examples

    def _unpacked(self, folder: Path, split: str, examples: Sequence[Example], root: Path) -> Path:
        """The image root; where images are embedded in the table and not at hand as files, they are written first."""
        places = list(self.embedded(folder, split, examples))
        if not places or all((root / image).is_file() for image in {image for image, _ in places}):
            return root
        unpack(places, folder / UNPACKED)
        return folder / UNPACKED

    def embedded(
        self, folder: Path, split: str, examples: Sequence[Example]
    ) -> Iterable[tuple[str, Embedded]]:
        """Images that the annotation tables embed, as (image path, place)."""
        places = ((example.image, example.extra.get("embedded")) for example in examples)
        return [(image, place) for image, place in places if isinstance(place, Embedded)]

    @final
    def named(self, alias: str) -> Task:
        """The same task under another name, such as that of a user's own dataset."""
        renamed = copy(self)
        object.__setattr__(renamed, "name", alias)
        return renamed

    def chance(self, test: Split) -> float | None:
        """The primary metric of uniform guessing; None where it takes the training split to know."""
        return None

    def tables(self, folder: Path, split: str) -> list[Found]:
        """The files that hold the split, told by content. Raises DatasetError if there are none."""
        raise TaskError(f"task {self.name!r} finds its files in a way of its own")

    def source(self, folder: Path, split: str) -> Path:
        """The (first) file with the split's records. Raises DatasetError if there is none."""
        return self.tables(folder, split)[0].file

    @abstractmethod
    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        """Official records in file order, each as its examples (several captions of an image, else one)."""

    @abstractmethod
    def objective(self, train: Split, width: int) -> Objective:
        """Fresh head and loss for pooled states of this width, vocabulary built from the training split."""

    @abstractmethod
    def value(self, answers: Sequence[Answer]) -> float:
        """The primary metric of a whole split's answers."""

    @abstractmethod
    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Other metrics that are quoted for the task, by name."""

    @abstractmethod
    def baselines(self, train: Split, test: Split) -> Baselines:
        """The primary metric on `test` of chance, the majority answer and the prior, all from `train`."""

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """Writes predictions in the official submission format (JSON lines where the task has none).

        Raises TaskError where predictions of the task cannot be written as answers.
        """
        write_json_lines(answers, path)

    def predictions(self, path: Path) -> dict[str, Prediction]:
        """Predictions of any system by id, in the official submission format. Raises PredictionError."""
        return read_json_lines(path)

    def official_scores(self, folder: Path, data: Split, predictions: Mapping[str, Prediction]) -> OfficialScores:
        """What the official evaluation prints besides, which needs the dataset's files or all predictions."""
        return OfficialScores()

    def credit(self, prediction: str, target: str) -> float:
        """What an answer scores, in [0, 1]; here, 1 where it equals the target.

        The mean of these is `value`, unless the metric is of the whole set: intervals resample scored answers.
        """
        return exact(prediction, target)

    def judge(self, example: Example, prediction: Prediction) -> Answer:
        """A prediction as a scored answer."""
        target = "" if example.target is None else str(example.target)
        return Answer(
            id=example.id,
            image=example.image,
            direction="",
            prediction=prediction.text,
            target=target,
            score=None if example.target is None else self.credit(prediction.text, target),
            probability=prediction.probability,
            logprob=None,
            rank=None,
            slices=example.slices,
        )


def _without_place(example: Example) -> Example:
    if "embedded" not in example.extra:
        return example
    return replace(example, extra={key: value for key, value in example.extra.items() if key != "embedded"})
