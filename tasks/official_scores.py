"""What a task's official evaluation prints beside the primary metric: parts that need more than the answers.

Handed on by `Task.official_scores`, to be put together with the answers by `tasks.score`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OfficialScores:
    """Further scores of one set of predictions.

    Attributes:
        shares: metric -> record id -> the record's share of it, a mean over the records that have one.
        numbers: metric -> value, where it is no mean over records.
        slices: record id -> further parts of the set that it belongs to.
        scored: ids that enter a score; None for all (GQA scores balanced questions alone).
        not_run: metric -> why it is undefined here.
    """

    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scored: frozenset[str] | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
