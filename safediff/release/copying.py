"""Copies of a checked release, which get checksums of their own.

So whatever was changed between the check and the copy would look checked.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from safediff.errors import UsageError
from safediff.release.checksums import SUMS_NAME, UNLISTED
from safediff.release.stamps import Stamp, require_unchanged


def copy_checked(release: Path, stamps: Mapping[str, Stamp], folder: Path, *left_out: str) -> None:
    """Copy a release without its checksums and signature.

    Args:
        release: A release that was checked.
        stamps: Of its files, taken before they were checked.
        folder: An empty folder that is there.
        left_out: Names of further files that are not copied.

    Raises:
        UsageError: a file was changed or exchanged since; what was copied is then worth nothing.
        OSError: it can't be copied.
    """
    ignored = shutil.ignore_patterns(*UNLISTED, *left_out)
    shutil.copytree(release, folder, dirs_exist_ok=True, ignore=ignored)
    require_unchanged(release, stamps)


def require_outside(folder: Path, release: Path | None) -> None:
    """Refuse to write into a release: its checksums would not list what is written.

    Args:
        folder: The folder to write, whatever links lead to it.
        release: The release that is read, if it is one.

    Raises:
        UsageError: ``folder`` is that release, or lies in one.
    """
    target = folder.resolve()
    if release is not None and target == release.resolve():
        raise UsageError(f"{folder}: is the release that is read", "write to another folder")
    for parent in target.parents:
        if (parent / SUMS_NAME).exists():
            raise UsageError(
                f"{folder}: lies in the release {parent}, whose checksums would not list it",
                "write to a folder outside of it",
            )
