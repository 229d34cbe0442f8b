"""``safediff init``: a first policy, and a workflow that runs it."""

import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

STARTER = {
    "policies/starter.yaml": "policy.yaml",
    ".github/workflows/safediff.yml": "workflow.yml",
}
"""File that is written, by its place, and the one in ``safediff.cli`` that it is made from."""


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Root of the repository; made if missing.")
    ] = Path(),
) -> None:
    """Write a starter policy and a GitHub workflow. Overwrites nothing."""
    from safediff import __version__
    from safediff.errors import UsageError

    texts = {
        folder / place: files("safediff.cli")
        .joinpath("starter", name)
        .read_text(encoding="utf-8")
        .replace("{version}", __version__)
        for place, name in STARTER.items()
    }
    for parent in {parent: None for path in texts for parent in path.parents}:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"{parent}: is a file, not a folder", "choose another DIR")
    taken = [str(path) for path in texts if path.exists()]
    if taken:
        raise UsageError(
            f"{', '.join(taken)}: exists already; nothing was written",
            "choose another DIR, or move it away",
        )
    try:
        _write(texts)
    except OSError as error:
        where = error.filename or folder
        raise UsageError(
            f"{where}: cannot be written ({error.strerror})", "choose another DIR"
        ) from error
    for path in texts:
        print(path)
    print("note: set the install line of safediff.yml to your checkout or wheel", file=sys.stderr)


def _write(texts: dict[Path, str]) -> None:
    """All files or none: where one cannot be written, the others go, with the folders made."""
    made: list[Path] = []
    try:
        for path, text in texts.items():
            for parent in reversed([p for p in path.parents if not p.exists()]):
                parent.mkdir()
                made.append(parent)
            made.append(path)
            path.write_text(text, encoding="utf-8")
    except BaseException:
        for path in reversed(made):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        raise
