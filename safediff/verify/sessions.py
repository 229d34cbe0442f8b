"""When the pictures of a folder were drawn and with what: ``sessions.jsonl``.

Evidence ages from its oldest picture, however often a run is taken up again, so what is reported
is the start of the first session. A line is added where the environment is another one than before;
a session that only reads what is there adds none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safediff.errors import FREE_SPACE, Inconclusive, UsageError

SESSIONS_NAME = "sessions.jsonl"
UNKNOWN: Mapping[str, str] = {}
"""The environment of journals that are older than their list of sessions."""


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """All sessions of a folder."""

    started: str
    """Of the first one: ISO 8601, UTC, seconds."""
    environment: dict[str, str]
    """By name; what changed from session to session has all its values, with semicolons."""


def begin_session(folder: Path, environment: Mapping[str, str]) -> None:
    """Note a session that may draw; call it before the journal is opened.

    Args:
        folder: The run or the verification.
        environment: Versions, device, package.

    Raises:
        UsageError: the list is damaged.
        Inconclusive: it can't be written.
    """
    path, known = folder / SESSIONS_NAME, _read(folder)
    journal = folder / "journal.jsonl"
    added = []
    if not known and journal.exists() and journal.stat().st_size:
        drawn = datetime.fromtimestamp(journal.stat().st_mtime, UTC)
        added.append(_line(drawn, UNKNOWN))
    if not known or known[-1]["environment"] != environment:
        added.append(_line(datetime.now(UTC), environment))
    if not added:
        return
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(added))
    except OSError as error:
        raise Inconclusive(
            f"{path}: cannot be written ({error.strerror})",
            FREE_SPACE,
        ) from error


def read_sessions(folder: Path) -> Sessions:
    """What is known of the pictures in a folder.

    Raises:
        UsageError: there is no list of sessions, or it is damaged.
    """
    rows = _read(folder)
    if not rows:
        raise UsageError(
            f"{folder / SESSIONS_NAME}: says of no session",
            "verify again in a new folder",
        )
    return Sessions(started=rows[0]["started"], environment=_joined(rows))


def _joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row["environment"].items():
            found.setdefault(name, {})[value] = None
    return {name: "; ".join(values) for name, values in found.items()}


def _line(started: datetime, environment: Mapping[str, str]) -> str:
    row = {"started": started.isoformat(timespec="seconds"), "environment": dict(environment)}
    return json.dumps(row, sort_keys=True) + "\n"


def _read(folder: Path) -> list[dict[str, Any]]:
    path = folder / SESSIONS_NAME
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        _ = [(datetime.fromisoformat(row["started"]), row["environment"].items()) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: not a list of sessions ({error!r})", "verify again in a new folder"
        ) from error
    return rows
