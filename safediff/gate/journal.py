"""The journal: one JSON line per picture, so that every count can be made again.

The first line is a header with the plan's hash and the judges' rules; the others are pictures, in
the order in which they were drawn. A batch is written in one piece and synced, so that a killed
run leaves at most one torn line, at the end; it is cut off when the journal is opened again.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

from safediff.errors import FREE_SPACE, Inconclusive, UsageError

Json = dict[str, Any]
Status = Literal["ok", "generation_error", "judge_error", "not_finite", "black", "missing"]
"""``missing`` is never written: it is said of a picture that is gone when a check is decided."""

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class JournalHeader:
    """What the pictures were drawn for and how the judges decide."""

    plan_sha256: str
    judges: Mapping[str, str]
    """Weights hash by name of the judge."""
    thresholds: Mapping[str, float]
    """By name of the judge: a label is present where its score is at least this."""
    stopping: Json | None = None
    """Drawing order and stopping rule (``safediff.gate.stopping``); None where n is fixed."""

    def to_json(self) -> Json:
        """Plain data; what is None is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class JournalRecord:
    """One picture."""

    subject: str
    """``base``, ``teacher``, ``onnx engine``, ..."""
    check: str
    """What it was drawn for: ``erasure/<concept>``, ``retention/<name>``, ..."""
    prompt: str
    index: int
    """Number of the picture among those of its prompt, from 0; with the prompt it fixes seeds."""
    seed: int
    status: Status
    scores: Mapping[str, float]
    """Raw scores by label, at least of the labels that the plan asks about; empty unless ok."""
    image_sha256: str | None
    """Hash of the picture's bytes; None where there is no picture."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """By judge, what its scores were made of (NudeNet's boxes), so that other rules can be read off
    the same pictures; left out of the line where there is none."""
    replaces: str | None = None
    """Hash of the picture in whose place this one was drawn, because its file was lost; left out
    of the line of any other. Drawn in another batch it may differ by rounding."""

    def to_json(self) -> Json:
        """Plain data."""
        data = asdict(self)
        for name in ("raw", "replaces"):
            if not data[name]:
                del data[name]
        return data

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What identifies the picture within a run."""
        return self.subject, self.check, self.prompt, self.index


@dataclass(frozen=True, kw_only=True)
class JournalContents:
    """A journal as read."""

    header: JournalHeader
    records: tuple[JournalRecord, ...]
    torn: bool
    """The last line was incomplete and left out."""


class Journal:
    """A journal open for appending; a context manager.

    Who opens one has its folder (``safediff.folder_lock``): two would cut off each other's lines.
    """

    def __init__(self, path: Path, header: JournalHeader) -> None:
        """Create the file, or continue one with the same header.

        Raises:
            UsageError: the file belongs to another plan or judge, or is damaged.
            Inconclusive: it can't be written.
        """
        self.path = path
        self.records: list[JournalRecord] = []
        """What was in the file when it was opened; for resuming."""
        try:
            self._file: BinaryIO = path.open("ab")
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            self._continue(header)
        except BaseException:
            self.close()
            raise

    def _continue(self, header: JournalHeader) -> None:
        """Read what is there, cut off a torn line, begin an empty file."""
        path = self.path
        size = _intact_size(path)
        if not size:
            self._cut(0)
            self._write([{"type": "header", "schema_version": SCHEMA_VERSION, **header.to_json()}])
            return
        contents = read_journal(path)
        if contents.header != header:
            raise UsageError(
                f"{path}: written for plan {contents.header.plan_sha256[:12]} and judges "
                f"{contents.header.judges}, not for {header.plan_sha256[:12]} and "
                f"{header.judges}",
                next_step="use another run folder",
            )
        self.records = list(contents.records)
        self._cut(size)

    def _cut(self, size: int) -> None:
        try:
            self._file.truncate(size)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def append(self, records: Sequence[JournalRecord]) -> None:
        """Write a batch of pictures and sync it to disk.

        Raises:
            ValueError: a score is not a finite number (such a picture has status ``not_finite``).
            Inconclusive: the disk is full or the file can't be written.
        """
        self._write([{"type": "image", **record.to_json()} for record in records])

    def _write(self, lines: Sequence[Json]) -> None:
        text = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines)
        try:
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Journal":
        """Return the open journal."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


def read_journal(path: Path) -> JournalContents:
    """Read a journal; an incomplete last line is left out and reported.

    Raises:
        UsageError: the file is missing, has no header, or a line other than the last is damaged.
    """
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"{path}: no readable journal ({error.strerror})") from error
    return _contents(path, lines, torn=bool(tail))


class JournalTail:
    """Reads on in a journal that another process writes."""

    def __init__(self, path: Path, header: JournalHeader) -> None:
        self.path, self.header = path, header
        self._offset, self._first_line = 0, b""

    def read_on(self) -> list[JournalRecord]:
        """Records that were completed since the last call.

        Raises:
            UsageError: the journal is damaged, or belongs to another plan or judge.
        """
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        if not newline:
            return []
        lines = whole.split(b"\n")
        if self._offset == 0:
            self._first_line, *lines = lines
        self._offset += len(whole) + 1
        contents = _contents(self.path, [self._first_line, *lines], torn=False)
        if contents.header != self.header:
            raise UsageError(
                f"{self.path}: written for plan {contents.header.plan_sha256[:12]}, not for "
                f"{self.header.plan_sha256[:12]}, or for other judges",
                next_step="use another run folder",
            )
        return list(contents.records)


def _contents(path: Path, lines: Sequence[bytes], *, torn: bool) -> JournalContents:
    parsed = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    try:
        header = parsed[0]
        if header.pop("type") != "header" or header.pop("schema_version") != SCHEMA_VERSION:
            raise ValueError("first line is no header of this version")
        records = []
        for row in parsed[1:]:
            if row.pop("type") != "image":
                raise ValueError("a line is neither header nor image")
            records.append(JournalRecord(**row))
        return JournalContents(header=JournalHeader(**header), records=tuple(records), torn=torn)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: not a journal of this version ({error!r})",
            next_step="run the verification again in a new folder",
        ) from error


def _parse(path: Path, number: int, line: bytes) -> Json:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("expected an object")
    except ValueError as error:
        raise UsageError(
            f"{path}:{number}: damaged journal line ({error})",
            next_step="run the verification again in a new folder",
        ) from error
    return row


def _intact_size(path: Path) -> int:
    """Bytes up to the end of the last complete line; 0 for an empty file."""
    return path.read_bytes().rfind(b"\n") + 1


def _unwritable(path: Path, error: OSError) -> Inconclusive:
    return Inconclusive(
        f"{path}: the journal could not be written ({error.strerror})",
        next_step=FREE_SPACE,
    )


def standing(records: Iterable[JournalRecord]) -> tuple[JournalRecord, ...]:
    """The records that count: of a lost picture that was drawn again the last, in its first place.

    Raises:
        UsageError: one picture stands there twice with different contents.
    """
    found: dict[tuple[str, str, str, int], JournalRecord] = {}
    for record in records:
        known = found.get(record.key, record)
        in_its_place = record.replaces is not None and record.replaces == known.image_sha256
        if known != record and not in_its_place:
            raise UsageError(
                f"journal holds two different pictures of {record.key}",
                next_step="run the verification again in a new folder",
            )
        found[record.key] = record
    return tuple(found.values())


def count_statuses(records: Iterable[JournalRecord]) -> str:
    """How many pictures failed in which way: ``3 judge_error, 1 missing``; empty if none."""
    counts: dict[str, int] = {}
    for record in records:
        if record.status != "ok":
            counts[record.status] = counts.get(record.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
