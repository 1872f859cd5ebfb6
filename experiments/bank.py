"""Features of a run's images, as models read them.

Handed stores and the digests of images; hands on a `FeatureBank` that gives the features of any examples as `fusion`
wants them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from encoders.store import FeatureStore
from experiments.data import PARTS, TaskData
from fusion.types import Features
from tasks.base import Example


@dataclass(frozen=True, slots=True)
class Source:
    """What one input of a model reads: an encoder's features, or a part of them.

    Attributes:
        encoder: alias of the encoder.
        view: one view for good, where it has several; None for the one asked for, or the plain image.
        part: of `parts` equal parts of its tokens, every `parts`-th token from this one on.
    """

    encoder: str
    view: int | None = None
    part: int = 0
    parts: int = 1


class FeatureBank:
    """Features of the run's images, by task and image name, from one store per view of each encoder.

    Args:
        stores: by alias of the encoder, one a view.
        digests: by task and image name.
        sources: what each input of the model reads; by default each reads the encoder of its name.
    """

    def __init__(
        self,
        stores: Mapping[str, Sequence[FeatureStore]],
        digests: Mapping[tuple[str, str], str],
        sources: Mapping[str, Source] | None = None,
    ) -> None:
        self._stores = {alias: tuple(views) for alias, views in stores.items()}
        self._digests = dict(digests)
        self._sources = dict(sources) if sources is not None else {alias: Source(alias) for alias in stores}

    def reading(self, sources: Mapping[str, Source]) -> FeatureBank:
        """The same features for a model with other inputs."""
        return FeatureBank(self._stores, self._digests, sources)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The model's inputs in the run's order: the encoders, unless it has others."""
        return tuple(self._sources)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each input's tokens."""
        return {alias: self._stores[source.encoder][0].meta.width for alias, source in self._sources.items()}

    def summary(self) -> list[str]:
        """One line per encoder: images stored, bytes an image, folder."""
        return [
            f"{alias}: {len(views[0])} images, {len(views) * views[0].bytes_per_image} bytes each"
            f"{f' ({len(views)} views)' if len(views) > 1 else ''}, in {views[0].folder}"
            for alias, views in self._stores.items()
        ]

    def digest(self, task: str, image: str) -> str:
        """Digest of an image's bytes, its key in every store."""
        return self._digests[task, image]

    def lacking(self, data: TaskData) -> list[str]:
        """Images of a task that have no features, because they were left out as undecodable."""
        images = dict.fromkeys(image for part in PARTS for image in data.splits[part].images())
        return [image for image in images if (data.task.name, image) not in self._digests]

    def features(
        self,
        task: str,
        images: Sequence[str],
        coalition: Sequence[str],
        device: torch.device | str = "cpu",
        *,
        views: Sequence[int] | None = None,
    ) -> dict[str, Features]:
        """Tokens b n d in the store's precision, boxes b n 4 and valid b n of each encoder in the coalition.

        Args:
            views: a number for each image, that picks the view of it in each encoder that has several (modulo how
                many it has); None for view 0, the plain image.
        """
        digests = [self.digest(task, image) for image in images]
        return {alias: self._read(alias, digests, views).to(device) for alias in coalition}

    def of_examples(
        self,
        task: str,
        examples: Sequence[Example],
        coalition: Sequence[str],
        device: torch.device | str = "cpu",
        *,
        views: Sequence[int] | None = None,
    ) -> dict[str, Features]:
        """Features of each example's image, in order."""
        return self.features(task, [example.image for example in examples], coalition, device, views=views)

    def _read(self, alias: str, digests: Sequence[str], views: Sequence[int] | None) -> Features:
        source = self._sources[alias]
        stores = self._stores[source.encoder]
        if source.view is not None:
            stores = stores[source.view : source.view + 1]
        found = _read_views(stores, digests, views)
        if source.parts == 1:
            return found
        chosen = slice(source.part, None, source.parts)
        return Features(found.tokens[:, chosen], found.boxes[:, chosen], found.valid[:, chosen])


def _read_views(stores: Sequence[FeatureStore], digests: Sequence[str], views: Sequence[int] | None) -> Features:
    """Each image's features in its view, modulo how many there are."""
    if views is None or len(stores) == 1:
        return Features(*stores[0].read(digests, precision="stored"))
    rows: dict[int, list[int]] = {}
    for row, view in enumerate(views):
        rows.setdefault(view % len(stores), []).append(row)
    parts = [
        _read_views(stores[view : view + 1], [digests[row] for row in chosen], None) for view, chosen in rows.items()
    ]
    order = torch.tensor([row for chosen in rows.values() for row in chosen]).argsort()
    return Features(
        torch.cat([part.tokens for part in parts])[order],
        torch.cat([part.boxes for part in parts])[order],
        torch.cat([part.valid for part in parts])[order],
    )
