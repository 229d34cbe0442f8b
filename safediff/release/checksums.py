"""SHA256SUMS: which files a release holds, in the format that ``sha256sum -c`` reads."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from safediff.errors import Inconclusive, UsageError

SUMS_NAME = "SHA256SUMS"
SIGNATURE_NAME = "model.sig"
UNLISTED = frozenset({SUMS_NAME, SIGNATURE_NAME})
"""A signature covers the sums, so neither can be listed in them."""


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes, lower-case hex.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> Path:
    """List every file of ``folder``, sorted by path; returns the path of the list."""
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in sorted(_files(folder))]
    path = folder / SUMS_NAME
    path.write_text("".join(lines), encoding="utf-8")
    return path


def verify_checksums(folder: Path) -> None:
    """Check that ``folder`` holds exactly the files it was written with.

    Raises:
        UsageError: a file differs, is missing or was added, or there is no list.
        Inconclusive: a file can't be read.
    """
    problems = mismatches(folder, read_sums(folder))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UsageError(
            f"{folder}: does not match its {SUMS_NAME}: {problems[0]}{more}",
            "do not deploy it; get the release again from where it was made",
        )


def read_sums(folder: Path) -> dict[str, str]:
    """The listed hashes by path.

    Raises:
        UsageError: there is no list, or a line of it is broken.
    """
    return _read_sums(folder / SUMS_NAME)


def mismatches(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """What is missing, was added or differs, in words; empty where the folder is as listed.

    Raises:
        Inconclusive: a file can't be read.
    """
    present = _files(folder)
    try:
        return [
            *(f"{name} is missing" for name in sorted(listed.keys() - present)),
            *(f"{name} is not listed" for name in sorted(present - listed.keys())),
            *(
                f"{name} differs"
                for name in sorted(listed.keys() & present)
                if sha256_file(folder / name) != listed[name]
            ),
        ]
    except OSError as error:
        raise Inconclusive(f"{error.filename}: cannot be read ({error.strerror})") from error


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths} - UNLISTED


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: no readable list of checksums", "give a folder that safediff released"
        ) from error
    entries = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines]
    if not all(entries):
        number = entries.index(None) + 1
        raise UsageError(f"{path}:{number}: not a line of sha256sum: {lines[number - 1][:80]!r}")
    return {entry[2]: entry[1] for entry in entries if entry}
