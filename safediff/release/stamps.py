"""Whether files are still those that were checked, without reading them again.

Weights are opened by their paths, seconds after they were hashed. A file's stamp changes with every
write to it and with every other file that takes its place, and nobody but the system sets the time
in it; so where no stamp has changed, what was opened is what was checked.
"""

from collections.abc import Mapping
from pathlib import Path

from safediff.errors import UsageError

Stamp = tuple[int, ...]
"""Device, inode, size in bytes, and the times of the last write and change in ns."""


def stamps_of(folder: Path) -> dict[str, Stamp]:
    """Stamps of all files in a folder, by their paths in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _stamp(path) for path in files}


def require_unchanged(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Hold a folder against the stamps that were taken before it was checked.

    Raises:
        UsageError: a file was written to, exchanged, added or taken away since.
    """
    now = stamps_of(folder)
    changed = sorted(n for n in now.keys() | stamps.keys() if now.get(n) != stamps.get(n))
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UsageError(
            f"{folder}: {changed[0]}{more} was changed between its check and its opening",
            "find out who writes to the folder, then start again",
        )


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
