"""Texts from files beside the policy: one a line, or a column of a CSV file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safediff.policy.problems import did_you_mean


@dataclass(frozen=True, kw_only=True)
class TextLine:
    """A text and the line it stands on, counted from 1."""

    text: str
    line: int


class TextFileError(Exception):
    """A text file cannot be used; the message completes "error: key: ..."."""


def read_texts(path: Path) -> list[TextLine]:
    """Read one text a line; ``#`` starts a comment, blank lines are skipped, duplicates dropped.

    Raises:
        TextFileError: the file cannot be read or holds no text.
    """
    seen: dict[str, TextLine] = {}
    for number, raw in enumerate(_read(path).splitlines(), start=1):
        text = raw.partition("#")[0].strip()
        if text:
            seen.setdefault(text, TextLine(text=text, line=number))
    if not seen:
        raise TextFileError(f"'{path.name}' holds no text")
    return list(seen.values())


def read_column(path: Path, column: str) -> list[str]:
    """Read the distinct, non-empty texts of a CSV column, in order.

    Raises:
        TextFileError: the file cannot be read, or has no such column or no text in it.
    """
    _, rows = read_rows(path, (column,))
    return list(dict.fromkeys(row[column] for row in rows))


def read_rows(path: Path, names: Sequence[str]) -> tuple[str, list[dict[str, str]]]:
    """Read the rows of a CSV file that have a text; white space is one space.

    Args:
        path: the file; its first row names the columns.
        names: what the column of the texts may be called.

    Returns:
        The first of ``names`` that the file has, and the rows by column; what is missing is empty.

    Raises:
        TextFileError: the file cannot be read, or has no such column or no text in it.
    """
    try:
        rows = csv.DictReader(io.StringIO(_read(path), newline=""), strict=True)
        columns = rows.fieldnames or ()
        known = [name for name in names if name in columns]
        if not known:
            hint = did_you_mean(names[0], columns)
            raise TextFileError(f"'{path.name}' has no column '{names[0]}'{hint}")
        cleaned = [{name: " ".join((row[name] or "").split()) for name in columns} for row in rows]
    except csv.Error as error:
        raise TextFileError(f"'{path.name}' is not a CSV file: {error}") from error
    found = [row for row in cleaned if row[known[0]]]
    if not found:
        raise TextFileError(f"column '{known[0]}' of '{path.name}' holds no text")
    return known[0], found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside)
        raise TextFileError(f"no file '{path.name}' in {path.parent}{hint}") from error
    except IsADirectoryError as error:
        raise TextFileError(f"'{path}' is a folder; name a text file") from error
    except UnicodeDecodeError as error:
        raise TextFileError(f"'{path.name}' is not UTF-8 text") from error
    except OSError as error:
        raise TextFileError(f"cannot read '{path.name}': {error.strerror}") from error
