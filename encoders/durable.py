"""Files that appear whole or not at all, and locks that die with their process.

A file is written under a temporary name that readers ignore, flushed, and renamed. A lock is the kernel's, so a
killed process holds none. What killed processes leave behind is recognised and swept away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from encoders.errors import StoreError

TEMPORARY, LOCK = ".tmp-", ".lock-"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a file system says that knows no locks; there the lock is only a courtesy that falls away."""

PATIENCE = 1.0


class HeldError(StoreError):
    """A lock that another process holds."""


def write_whole(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file that is complete and durable once it is seen under its name.

    Raises:
        OSError: the disk refuses; nothing is left behind.
    """
    temporary = target.parent / f"{TEMPORARY}{_place()}-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        with temporary.open("xb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path) -> int:
    """Removes what killed processes left, and returns how many files that were.

    Files of living processes stay, temporary files of other machines and containers, whose processes cannot be seen,
    and what another user may alone remove.
    """
    removed = 0
    own = re.compile(f"{re.escape(f'{TEMPORARY}{_place()}')}-([0-9]{{1,9}})-[0-9a-f]+")
    for file in folder.glob(f"{TEMPORARY}*"):
        found = own.fullmatch(file.name)
        if found is not None and not _alive(int(found[1])):
            with suppress(OSError):
                file.unlink(missing_ok=True)
                removed += 1
    for file in folder.glob(f"{LOCK}*"):
        lock = WriterLock(file)
        try:
            lock.acquire(patience=0)
        except StoreError:
            continue
        lock.release()
        removed += 1
    return removed


class WriterLock:
    """The right to write one block of one store; the file says who holds it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._handle: int | None = None

    def acquire(self, *, patience: float = PATIENCE) -> None:
        """Takes the lock.

        Args:
            patience: seconds to try for; whoever sweeps the folder holds a lock for an instant.

        Raises:
            HeldError: another process holds it; the message says which.
            StoreError: the folder cannot be written, or the file is another user's.
        """
        deadline = time.monotonic() + patience
        while (owner := self._take()) is not None:
            if time.monotonic() >= deadline:
                raise HeldError(
                    f"{self.file.parent} is being extended by {owner} with the same images: "
                    "wait for it, or give each process its own --shard"
                )
            time.sleep(0.02 if patience <= PATIENCE else 0.5)

    def release(self) -> None:
        """Gives the lock back, and removes its file first, so that nobody waits at a removed one."""
        if self._handle is not None:
            with suppress(OSError):  # then it is swept away another time
                self.file.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def _take(self) -> str | None:
        """Takes the lock, or says who holds it."""
        try:
            while self._handle is None:
                with ExitStack() as undo:
                    handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
                    undo.callback(os.close, handle)
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        return os.read(handle, 200).decode(errors="replace") or "another process"
                    except OSError as error:
                        if error.errno not in NO_LOCKS:
                            raise
                    if _is_file(handle, self.file):  # else its holder removed it between our opening and our locking
                        undo.callback(self.file.unlink, missing_ok=True)
                        os.ftruncate(handle, 0)
                        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                        undo.pop_all()
                        self._handle = handle
        except OSError as error:
            theirs = error.errno == errno.EACCES and self.file.exists()
            hint = "; it is another user's: remove it if they extract nothing now" if theirs else ""
            raise StoreError(f"cannot write {self.file}: {error.strerror}{hint}") from error
        return None


def _is_file(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _place() -> str:
    """Where a process's number is its own: containers may have a host's name in common, and count anew."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}-{namespace}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
