"""How long a training step takes: from the end of one to the end of the next, without what comes between some."""

from __future__ import annotations

import time
from statistics import median


class StepClock:
    """Collects the times of steps: on the clock, on the processors, which other work disturbs less, and waiting."""

    def __init__(self) -> None:
        self._ended: tuple[float, float, float] | None = None
        self._seconds: list[tuple[float, float, float]] = []

    def step_ended(self, *, waited: float = 0.0) -> None:
        """The time since the step before counts, unless there was a rest.

        Args:
            waited: seconds that training has waited for features since it began.
        """
        now = time.perf_counter(), time.process_time(), waited
        if self._ended is not None:
            wall, processor, waiting = (after - before for after, before in zip(now, self._ended, strict=True))
            self._seconds.append((wall, processor, waiting))
        self._ended = now

    def rest(self) -> None:
        """What follows, such as a validation, is no part of a step; nor is the step after it, which it delays."""
        self._ended = None

    def record(self) -> dict[str, float] | None:
        """Median milliseconds of a step; None of fewer than two steps in a row."""
        if not self._seconds:
            return None
        wall, processor, _ = (1000 * median(column) for column in zip(*self._seconds, strict=True))
        return {"wall": round(wall, 2), "processor": round(processor, 2)}

    def waiting(self) -> float | None:
        """Share of the steps' time on the clock that went by waiting for features; None as in `record`."""
        if not self._seconds:
            return None
        waiting = sum(step[2] for step in self._seconds) / sum(step[0] for step in self._seconds)
        return round(waiting, 4)
