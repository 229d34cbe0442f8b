"""A comparison that was written before, and the rows that are measured now: one table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safediff.compare.entry import Entry, Measured, Setup
from safediff.compare.rows import ROWS
from safediff.compare.table import Comparison
from safediff.errors import UsageError
from safediff.policy.plan import Plan

Json = dict[str, Any]
SAME = ("base", "judge")
"""Facts that the rows of one table share."""
EARLIER = "rows of an earlier run"


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The rows of a ``table.json``."""

    path: Path
    entries: tuple[Entry, ...]
    facts: Json
    left_out: Mapping[str, str] = field(default_factory=dict)

    def has(self, id: str) -> bool:
        """Whether a row is among them."""
        return any(entry.id == id for entry in self.entries)

    def settles(self, id: str) -> bool:
        """Whether a row needs no measuring: it is among them, or the base does not allow it."""
        return self.has(id) or id in self.left_out

    def alone(self, plan: Plan) -> Comparison:
        """The table as it was, to write it again."""
        return Comparison(plan=plan, entries=self.entries, facts=self.facts, left_out=self.left_out)

    def joined(self, now: Comparison) -> Comparison:
        """Rows of both, those of now where both have one, in the registry's order.

        Raises:
            UsageError: they were measured on another base, or by another judge.
        """
        for name in SAME:
            if self.facts.get(name) != now.facts.get(name):
                raise UsageError(
                    f"{self.path}: measured with {name} {self.facts.get(name)}, not with "
                    f"{now.facts.get(name)}: its rows don't belong into this table",
                    "leave --add-to out; what was measured now is kept",
                )
        fresh = {entry.id for entry in now.entries}
        old = [entry for entry in self.entries if entry.id not in fresh]
        order = {id: place for place, id in enumerate(ROWS)}
        entries = sorted([*old, *now.entries], key=lambda e: order.get(e.id, len(order)))
        facts = {**now.facts, **({EARLIER: ", ".join(entry.id for entry in old)} if old else {})}
        there = {entry.id for entry in entries}
        missing = {**self.left_out, **now.left_out}
        left_out = {id: why for id, why in missing.items() if id not in there}
        return replace(now, entries=tuple(entries), facts=facts, left_out=left_out)


def read_earlier(path: Path, plan: Plan) -> Earlier:
    """The rows of a comparison of the same plan.

    Raises:
        UsageError: the file is no comparison, or one of another plan.
    """
    try:
        data: Json = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(map(entry_of, data["rows"]))
        found, facts = data["plan_sha256"], dict(data["facts"])
        left_out = {id: why for id, why in data.get("left_out", {}).items() if id in ROWS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--add-to {path}: not the JSON of a comparison ({type(error).__name__})",
            "give a file that `safediff compare -o table.json` wrote",
        ) from error
    if found != plan.sha256:
        raise UsageError(
            f"--add-to {path}: a comparison of plan {found[:12]}, the policy's is "
            f"{plan.sha256[:12]}",
            "measure all rows of the changed policy",
        )
    return Earlier(path=path, entries=entries, facts=facts, left_out=left_out)


def entry_of(row: Json) -> Entry:
    """A row as ``Entry.to_json`` wrote it; what older files do not say has its default.

    Raises:
        KeyError: a number is missing.
        TypeError: something is of another type.
    """
    of_setup = {field.name for field in fields(Setup)}
    checks = {id: Measured(**value) for id, value in row["checks"].items()}
    own = {field.name: row[field.name] for field in fields(Entry) if field.name != "setup"}
    own |= {"checks": checks, "hits": tuple(row["hits"])}
    return Entry(**own, setup=Setup(**{k: v for k, v in row.items() if k in of_setup}))
