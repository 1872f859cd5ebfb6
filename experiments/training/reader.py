"""Reading ahead: a background thread reads the next steps' features while the trainer computes.

Handed an iterator; hands on its items, in order. Reading releases the interpreter while it copies.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Generic, TypeVar

from encoders.processors import compute_alone

Item = TypeVar("Item")
DEPTH = 2
POLL = 0.1


class ReadAhead(Generic[Item]):
    """Iterates over what a thread has fetched before; errors of the source arrive here. A context manager.

    Args:
        alone: whether the source computes in its own thread only; so, where the consumer computes on the same
            processors (`encoders.processors.compute_alone`).

    Attributes:
        waited: seconds that the consumer has waited.
    """

    def __init__(self, source: Iterator[Item], *, depth: int = DEPTH, alone: bool = False) -> None:
        self._source, self._alone = source, alone
        self._fetched: Queue[tuple[Item] | BaseException | None] = Queue(depth)
        self._stop = Event()
        self._thread = Thread(target=self._fetch, name="read-ahead", daemon=True)
        self.waited = 0.0

    def __enter__(self) -> ReadAhead[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        while True:
            started = time.perf_counter()
            fetched = self._take()
            self.waited += time.perf_counter() - started
            if fetched is None:
                return
            if isinstance(fetched, BaseException):
                raise fetched
            yield fetched[0]

    def _take(self) -> tuple[Item] | BaseException | None:
        while True:
            try:
                return self._fetched.get(timeout=POLL)
            except Empty:
                assert self._thread.is_alive() or not self._fetched.empty(), "the reader is gone"

    def _put(self, item: tuple[Item] | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                return self._fetched.put(item, timeout=POLL)
            except Full:
                continue

    def _fetch(self) -> None:
        if self._alone:
            compute_alone()
        try:
            for item in self._source:
                self._put((item,))
                if self._stop.is_set():
                    return
            self._put(None)
        except BaseException as error:  # whatever it is, the trainer has to hear of it
            self._put(error)
