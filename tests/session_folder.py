"""One folder a session, whose parts are made by whichever of its processes first asks for them.

Processes that share the tests (``pytest -n``) take that of the process which started them.
"""

import atexit
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

VARIABLE = "SAFEDIFF_TESTS_FOLDER"


def session_folder() -> Path:
    """The folder; the process that makes it removes it when it ends."""
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = folder = tempfile.mkdtemp(prefix="safediff-tests-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        Path(folder, "owner").write_text(str(os.getpid()))
    return Path(os.environ[VARIABLE])


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The part ``name``; do not write to it.

    Args:
        name: Of a folder in the session's.
        make: Writes the folder it is given, which is not there yet. Others wait meanwhile; what a
            process leaves that ends in the middle of it, the next one removes and makes anew.
    """
    folder, whole = session_folder() / name, _whole(name)
    with (session_folder() / f"{name}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # ends with the process that holds it
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            _note(name)
    return folder


def written_to() -> list[str]:
    """What was changed in the parts since they were made; it is told once."""
    found = []
    for whole in sorted(session_folder().glob("*.whole")):
        noted, is_now = json.loads(whole.read_text()), _times(whole.with_suffix(""))
        changed = sorted(name for name in {*noted, *is_now} if noted.get(name) != is_now.get(name))
        found += [f"{whole.stem}/{name}" for name in changed]
        if changed:
            _note(whole.stem)
    return found


def _whole(name: str) -> Path:
    """Is there once all of the part is: what it held then."""
    return session_folder() / f"{name}.whole"


def _note(name: str) -> None:
    temporary = session_folder() / f"{name}.{os.getpid()}"
    temporary.write_text(json.dumps(_times(session_folder() / name)))
    os.replace(temporary, _whole(name))


def _times(folder: Path) -> dict[str, int]:
    """When each file was written, and when each folder last won or lost one."""
    return {
        str(path.relative_to(folder)): path.lstat().st_mtime_ns
        for path in (folder, *folder.rglob("*"))
    }
