"""How the processes of a run share work: each takes every so-manieth part, and all see all results, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import broadcast_object_list, gather_object  # type: ignore[import-untyped]

Part = TypeVar("Part")
Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's number, and how many share the work."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator) -> Processes:
        """The processes that were launched together."""
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def first(self) -> bool:
        """Whether this one writes and prints."""
        return self.index == 0

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Results of all parts, in order, in every process; each part is worked on by one of them.

        A part is worked on exactly as one process alone would, so that results do not depend on how many there are.
        """
        own = [(number, work(parts[number])) for number in range(self.index, len(parts), self.count)]
        if self.count == 1:
            return [result for _, result in own]
        return [result for _, result in sorted(gather_object(own), key=lambda numbered: numbered[0])]

    def agree(self, value: Value) -> Value:
        """What the first process has, in all of them."""
        if self.count == 1:
            return value
        agreed: Value = broadcast_object_list([value])[0]
        return agreed


ALONE = Processes()
