"""Data sets as folders of tables: what a hub repository holds, or a local copy of one.

A split's files are those that name it (``train-00000-of-00001.parquet``, ``train.csv``,
``train/a.jsonl``); a folder whose files name no split is all ``train``.
"""

import csv
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safediff.errors import Inconclusive
from safediff.policy.rows import RowError, Table, read_table, text_column

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
SPLITS = ("train", "test", "validation", "val", "dev")

Record = Mapping[str, object]


def read_dataset(folder: Path, split: str, column: str | None, name: str) -> Table:
    """All prompts of one split, in the order of its files.

    Raises:
        RowError: there is no such split, or its tables cannot be used.
        Inconclusive: a table is Parquet and pyarrow is missing.
    """
    found = (record for path in _files(folder, split, name) for record in _records(path))
    records = list(_objects(found, name))
    columns = list(dict.fromkeys(key for record in records[:1] for key in record))
    return read_table(records, text_column(columns, column, name), name)


def _files(folder: Path, split: str, name: str) -> list[Path]:
    tables = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    named = {path: _split(path.relative_to(folder)) for path in tables}
    if not any(named.values()):
        named = dict.fromkeys(tables, "train")
    found = [path for path in tables if named[path] == split]
    if not found:
        known = sorted({known for known in named.values() if known}) or ["none"]
        raise RowError(f"'{name}' has no tables of the split '{split}'; it has {', '.join(known)}")
    return found


def _split(path: Path) -> str:
    """The split that a path names, in its file name or a folder's; "" for none."""
    for part in reversed(path.parts):
        words = part.lower().replace("-", " ").replace("_", " ").replace(".", " ").split()
        for split in SPLITS:
            if split in words:
                return split
    return ""


def _objects(found: Iterable[object], name: str) -> Iterator[Record]:
    """Rows with named columns; a line of JSON may be anything."""
    for number, record in enumerate(found, start=1):
        if not isinstance(record, dict):
            raise RowError(f"row {number} of '{name}' is no object")
        yield record


def _records(path: Path) -> Iterator[object]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix == ".jsonl":
            with path.open(encoding="utf-8-sig") as lines:
                yield from (json.loads(line) for line in lines if line.strip())
        else:
            delimiter = "\t" if suffix == ".tsv" else ","
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file, delimiter=delimiter, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise RowError(f"'{path.name}' cannot be read as a table: {error}") from error


def _parquet(path: Path) -> list[Record]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise Inconclusive(
            f"'{path.name}' is Parquet and pyarrow is not installed",
            "pip install 'safediff[datasets]'",
        ) from error
    wanted = [field.name for field in parquet.read_schema(path) if _is_plain(str(field.type))]
    rows: list[Record] = parquet.read_table(path, columns=wanted).to_pylist()
    return rows


def _is_plain(kind: str) -> bool:
    """Texts and numbers; pictures stay on the disk."""
    return kind in ("string", "large_string") or kind.startswith(("int", "uint", "float", "double"))
