"""What single examples and images weigh in numbers that are shares of examples.

Resampled images cannot show what no image shows: where two models never differ the variance over resamples is 0, though
they may differ in 3.7 of n images (the exact 97.5 % bound). So the variance of a share also holds that of `RARE` images
that went the other way, in the manner of Agresti and Coull (1998), which weighs nothing once tens of images differ.

An image has several questions, which may change together. By how much an image changes a number is learned from those
that do: the root mean square of what they change, `RARE` images that change as a whole counted among them. So where no
image differs it is a whole image, and where hundreds differ in single questions it is about one question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

RARE = 4
"""Images of which a share's variance is taken to know nothing."""


@dataclass(frozen=True)
class Influence:
    """By how much examples and images can change a share.

    Attributes:
        example: by how much one example can.
        images: by how much each image can, all of its examples together.
    """

    example: float
    images: Float[np.ndarray, " c"]

    @classmethod
    def of(cls, clusters: Int[np.ndarray, " n"], *, num_clusters: int, count: int | None = None) -> Influence:
        """In a mean over examples, each of an image.

        Args:
            count: over how many examples the mean is taken, where not over all.
        """
        among = max(len(clusters) if count is None else count, 1)
        return cls(1 / among, np.bincount(clusters, minlength=num_clusters) / among)


@dataclass(frozen=True)
class Shares:
    """Of `k` numbers that are shares of examples, or linear maps of such.

    Attributes:
        influence: of examples and images.
        scale: how many times those a number has: 1 where it is a share or a difference of shares, 0 of a constant.
        added: what each image adds to each number, which is their sum; None where numbers are no sums over images.
    """

    influence: Influence
    scale: Float[np.ndarray, " k"]
    added: Float[np.ndarray, "c k"] | None

    def linear(self, matrix: Float[np.ndarray, "m k"]) -> Shares:
        """Of a linear map of the numbers."""
        added = None if self.added is None else self.added @ matrix.T
        return Shares(self.influence, ((matrix != 0) * self.scale).max(axis=1), added)

    def columns(self, columns: Sequence[int]) -> Shares:
        """Of a selection of them."""
        chosen = list(columns)
        return Shares(self.influence, self.scale[chosen], None if self.added is None else self.added[:, chosen])

    def with_constant(self, value: float, *, column: int) -> Shares:
        """With a number that no image changes."""
        constant = value * self.influence.images / max(float(self.influence.images.sum()), 1e-300)
        added = None if self.added is None else np.insert(self.added, column, constant, axis=1)
        return Shares(self.influence, np.insert(self.scale, column, 0.0), added)

    def scaled(self, column: int, scale: float) -> Shares:
        """With one number on a scale of its own, such as recalls that are summed in points."""
        changed = self.scale.copy()
        changed[column] = scale
        return replace(self, scale=changed)

    def beside(self, other: Shares) -> Shares:
        """Of both sets of numbers, about the same images."""
        added = None
        if self.added is not None and other.added is not None:
            added = np.concatenate([self.added, other.added], axis=1)
        influence = Influence(
            max(self.influence.example, other.influence.example),
            np.maximum(self.influence.images, other.influence.images),
        )
        return Shares(influence, np.concatenate([self.scale, other.scale]), added)

    def rare(self, column: int) -> float:
        """The variance of `RARE` images that could have gone the other way and did not."""
        present, scale = self.influence.images > 0, self.scale[column]
        images, example = scale * self.influence.images[present], scale * self.influence.example
        whole = float(np.mean(images**2)) if len(images) else 0.0
        if self.added is None or images.max(initial=0.0) <= example * (1 + 1e-9):  # no image has two examples
            return RARE * max(float(example) ** 2, whole)
        added = self.added[present, column]
        changes = added - images * np.median(added / images)  # from what most images show
        changed = changes[np.abs(changes) > 1e-12]
        seen = (float(np.sum(changed**2)) + RARE * whole) / (len(changed) + RARE)
        return RARE * max(float(example) ** 2, seen)
