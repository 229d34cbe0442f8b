"""One process at a time writes in a folder: a lock on a file of its own, which nobody reads.

A lock on a file that holds something would keep this very process from reading it where locks bind
(SMB). The system gives the lock up when its process ends, however that comes about. File systems
and platforms without locks go on without.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safediff.errors import Inconclusive, UsageError

LOCK_NAME = ".lock"
_BUSY = (errno.EAGAIN, errno.EACCES)
"""What systems say of a lock that another process has."""


@contextmanager
def held(folder: Path, name: str = LOCK_NAME, *, made: bool = False) -> Iterator[None]:
    """Have ``folder`` for this process alone while the block runs; it is made where there is none.

    If nothing comes of it, the folder does not stay: it goes again where it was made for this.

    Args:
        folder: Where this process is going to write.
        name: Of the lock's file in it.
        made: It was made for this, by the caller.

    Raises:
        UsageError: another process has it, or it is a file.
        Inconclusive: it can't be written.
    """
    made = made or not folder.exists()
    if folder.is_file():
        raise UsageError(f"{folder}: is a file, not a folder", "choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(folder, name)
    except OSError as error:
        raise Inconclusive(
            f"{folder}: cannot be written ({error.strerror or error})",
            "choose another --out, or let the folder be written to",
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            _clear(folder, name, made)
        if descriptor is not None:
            os.close(descriptor)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock."""
    return all(path.name == LOCK_NAME for path in folder.iterdir())


def _locked(folder: Path, name: str) -> int | None:
    """The open, locked file; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return None
    path = folder / name
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _BUSY:
                return None
            raise UsageError(
                f"{folder}: another safediff is writing to it",
                "wait for its end, or choose another --out",
            ) from error
        if _is_file(path, descriptor):
            return descriptor
        os.close(descriptor)  # whoever had it has just removed the file


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether ``path`` still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _clear(folder: Path, name: str, made: bool) -> None:
    """Leave no lock behind, nor an empty folder where it was ``made``."""
    (folder / name).unlink(missing_ok=True)
    if made and is_empty(folder):
        folder.rmdir()
