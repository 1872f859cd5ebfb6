"""The parts that a process has open, over all its stores: each is one of the mappings that the system allows it.

Handed names of parts; hands on the parts, opened when they are first asked for. Where too many are open, those that
were asked for longest ago are closed; which of their images were found intact is kept, so none is looked at twice.
"""

from __future__ import annotations

import errno
import threading
from itertools import count
from pathlib import Path
from weakref import WeakSet

from encoders.errors import UnreadableError
from encoders.parts import Part

MOST = 32_768
"""Half the mappings that Linux allows a process (`vm.max_map_count`, 65,530): libraries and drivers take some, too."""
EXHAUSTED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""What the system says when it has no more mappings, or files, to give."""


class OpenParts:
    """The open parts of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[str, Part] = {}
        self._intact: dict[str, tuple[str, list[str | None]]] = {}
        with _turn:
            _everywhere.add(self)

    def __len__(self) -> int:
        return len(self._parts)

    def get(self, name: str) -> Part:
        """The part of this name.

        Raises:
            StoreError: it is torn or altered.
        """
        part = self._parts.get(name)
        if part is None:
            part = self._open(name)
        part.used = next(_clock)
        return part

    def _open(self, name: str) -> Part:
        if _num_open() >= MOST:
            _close_oldest(max(1, MOST // 8))
        try:
            part = Part(self._folder / name)
        except UnreadableError as error:
            if getattr(error.__cause__, "errno", None) not in EXHAUSTED or not _close_oldest(MOST // 2):
                raise
            part = Part(self._folder / name)
        checksum, checked = self._intact.pop(name, ("", []))
        if checksum == part.checksum:
            part.checked = checked
        self._parts[name] = part
        return part

    def _close(self, name: str) -> None:
        part = self._parts.pop(name, None)
        if part is not None:
            self._intact[name] = part.checksum, part.checked


_everywhere: WeakSet[OpenParts] = WeakSet()
"""The limit is the process's, whatever has opened the stores."""
_clock, _turn = count(), threading.Lock()


def _num_open() -> int:
    with _turn:
        return sum(map(len, _everywhere))


def _close_oldest(most: int) -> int:
    """Closes so many parts, at most half of those that are open; how many those were. Whoever reads one keeps it."""
    with _turn:
        held = [(part.used, name, parts) for parts in _everywhere for name, part in list(parts._parts.items())]
        held.sort(key=lambda one: one[0])
        oldest = held[: min(most, -(-len(held) // 2))]
        for _, name, parts in oldest:
            parts._close(name)
    return len(oldest)
