"""How long a training step takes: from the end of one to the end of the next, without what comes between some."""

from __future__ import annotations

import time
from statistics import median


class StepClock:
    """Collects the times of steps, on the clock and on the processors, which other work disturbs less."""

    def __init__(self) -> None:
        self._ended: tuple[float, float] | None = None
        self._seconds: list[tuple[float, float]] = []

    def step_ended(self) -> None:
        """The time since the step before counts, unless there was a rest."""
        now = time.perf_counter(), time.process_time()
        if self._ended is not None:
            self._seconds.append((now[0] - self._ended[0], now[1] - self._ended[1]))
        self._ended = now

    def rest(self) -> None:
        """What follows, such as a validation, is no part of a step; nor is the step after it, which it delays."""
        self._ended = None

    def record(self) -> dict[str, float] | None:
        """Median milliseconds of a step; None of fewer than two steps in a row."""
        if not self._seconds:
            return None
        wall, processor = (1000 * median(column) for column in zip(*self._seconds, strict=True))
        return {"wall": round(wall, 2), "processor": round(processor, 2)}
