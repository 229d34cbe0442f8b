"""Whether files are still those that were checked, without reading them again.

Weights are opened by their paths, seconds after they were hashed. A file's stamp changes with every
write to it and with every other file that takes its place, and nobody but the system sets the time
in it; so where no stamp has changed, what was opened is what was checked. Folders have stamps, too:
a folder that was exchanged and put back changes those of the folder around it.
"""

from collections.abc import Mapping
from pathlib import Path

from safediff.errors import UsageError

Stamp = tuple[int, ...]
"""Device, inode, size in bytes, and the times of the last write and change in ns.

Of a symbolic link its own, and those of what it leads to.
"""


def stamps_of(folder: Path) -> dict[str, Stamp]:
    """Stamps of a folder and of all that lies in it, by their paths in it."""
    paths = (folder, *folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): _stamp(path) for path in paths}


def require_unchanged(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Hold a folder against the stamps that were taken before it was checked.

    Raises:
        UsageError: a file was written to, exchanged, added or taken away since.
    """
    now = stamps_of(folder)
    names = {Path(n) for n in now.keys() | stamps.keys() if now.get(n) != stamps.get(n)}
    around = {folder for name in names for folder in name.parents}
    if changed := sorted(name.as_posix() for name in names - around):
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UsageError(
            f"{folder}: {changed[0]}{more} was changed between its check and its opening",
            "find out who writes to the folder, then start again",
        )


def _stamp(path: Path) -> Stamp:
    """Empty where nothing is, or no more."""
    try:
        own = path.lstat()
    except FileNotFoundError:
        return ()
    found = [own, *([path.stat()] if path.is_symlink() and path.exists() else [])]
    return tuple(
        value
        for each in found
        for value in (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns)
    )
