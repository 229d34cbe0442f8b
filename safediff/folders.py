"""Folders that appear whole or not at all."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safediff.errors import Inconclusive, UsageError

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux: paths as they are, and both names stay taken."""


@contextmanager
def new_folder(folder: Path, is_ours: Callable[[Path], bool], kind: str) -> Iterator[Path]:
    """Fill a temporary sibling of ``folder``; it takes that name when the block ends well.

    Args:
        folder: The name to take. A folder that ``is_ours``, or an empty one, is replaced.
        is_ours: Whether an existing folder may be replaced.
        kind: What is being written, for messages.

    Raises:
        UsageError: ``folder`` exists and is something else.
        Inconclusive: the folder can't be written.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and (is_ours(folder) or not any(folder.iterdir()))):
        raise UsageError(
            f"{folder}: exists and is not {kind}; it is left as it is", "choose another folder"
        )
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        yield temporary
        _take_name(temporary, folder)
    except OSError as error:
        raise Inconclusive(
            f"{folder}: {kind} could not be written ({error.strerror or error})",
            "free some space or choose a folder that can be written to",
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_name(temporary: Path, folder: Path) -> None:
    """Rename; a folder in the way changes places with it, or is moved aside first."""
    if not folder.exists():
        os.rename(temporary, folder)
        return
    if _exchanged(temporary, folder):  # the earlier one is removed with the temporary name
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.replace(folder, old)
    try:
        os.rename(temporary, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two folders changed places in one step, so that a kill leaves both names taken.

    Linux alone can do that, and not on every file system.
    """
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # another system, or an old C library
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    return bool(rename(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0)
