"""Files that appear whole or not at all, and locks that die with their process.

A file is written under a temporary name that readers ignore, flushed, and renamed. A lock is the kernel's, so a
killed process holds none. What killed processes leave behind is recognised and swept away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from encoders.errors import StoreError

TEMPORARY, LOCK = ".tmp-", ".lock-"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a file system says that knows no locks; there the lock is only a courtesy that falls away."""

PATIENCE = 1.0


def write_whole(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file that is complete and durable once it is seen under its name.

    Raises:
        OSError: the disk refuses; nothing is left behind.
    """
    temporary = target.parent / f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
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

    Files of living processes stay, and temporary files of other machines, whose processes cannot be seen.
    """
    removed = 0
    for file in folder.glob(f"{TEMPORARY}*"):
        host, _, rest = file.name.removeprefix(TEMPORARY).rpartition("-")[0].rpartition("-")
        if host == socket.gethostname() and rest.isdigit() and not _alive(int(rest)):
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
            StoreError: another process holds it; the message says which.
        """
        deadline = time.monotonic() + patience
        while self._handle is None:
            handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(handle, 200).decode(errors="replace") or "another process"
                os.close(handle)
                if time.monotonic() < deadline:
                    time.sleep(0.02 if patience <= PATIENCE else 0.5)
                    continue
                raise StoreError(
                    f"{self.file.parent} is being extended by {owner} with the same images: "
                    "wait for it, or give each process its own --shard"
                ) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    os.close(handle)
                    raise
            if not _is_file(handle, self.file):  # its holder removed it between our opening and our locking
                os.close(handle)
                continue
            self._handle = handle
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def release(self) -> None:
        """Gives the lock back, and removes its file first, so that nobody waits at a removed one."""
        if self._handle is not None:
            self.file.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None


def _is_file(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
