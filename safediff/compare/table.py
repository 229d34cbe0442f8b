"""The comparison as a table: the same columns in a terminal, in Markdown and in JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from safediff.compare.entry import Entry, Measured, Paired, paired_tests
from safediff.compare.rows import POLICY
from safediff.gate.numbers import show
from safediff.gate.robustness import ALIGNMENT
from safediff.policy.plan import Plan

Json = dict[str, Any]
OVER_ALL = "erasure/all"
"""The rate of all concepts together."""


class Column(NamedTuple):
    """A heading and what stands under it."""

    heading: str
    cell: Callable[[Entry], str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All rows of one policy."""

    plan: Plan
    entries: tuple[Entry, ...]
    facts: Json
    """Versions, hashes and sampling, for the record."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Rows that this base does not allow: why, by id."""

    @property
    def reference(self) -> Entry:
        """The row that the others are tested against."""
        return next(entry for entry in self.entries if entry.id == POLICY)

    @property
    def tests(self) -> dict[str, Paired]:
        """McNemar tests of the erasure prompts, by row."""
        others = [entry for entry in self.entries if entry.id != POLICY]
        return paired_tests(self.reference, others)


def columns(comparison: Comparison) -> list[Column]:
    """The columns that the rows have numbers for."""
    tests, entries = comparison.tests, comparison.entries
    plain = min([2, *(entry.passes_per_step for entry in entries)])  # 1 if distilled
    gated, _ = erasure_checks(comparison)
    retention = retention_checks(entries)
    attacks = [id for id in _ids(entries, "robustness/") if id != ALIGNMENT]
    found = [Column("System", lambda entry: entry.title)]
    over_all = [OVER_ALL] if _has(entries, OVER_ALL) and len(gated) > 1 else []
    found += [Column(_heading(id, entries, "↓"), _upper(id)) for id in (*over_all, *gated)]
    found.append(Column("p", lambda entry: _p(tests.get(entry.id))))
    found += [Column(_heading(id, entries, "↑"), _lower(id)) for id in retention]
    found += [Column(_heading(id, entries, "↓"), _upper(id)) for id in attacks]
    found += [
        Column("FID ↓", _plain("quality/fid")),
        Column("KID ↓", _spread_of("quality/kid")),
        Column("LPIPS", _plain("quality/lpips")),
        Column("CLIP (Δ)", _with_change("quality/clip")),
        Column("passes", lambda entry: f"{entry.erase_passes:,}"),
        Column("s", lambda entry: f"{entry.erase_seconds:.0f}"),
        Column("cost/image", lambda entry: f"{entry.passes_per_step / plain:g} x"),
    ]
    return found


def concept_columns(comparison: Comparison) -> list[Column]:
    """One column a concept, where the table itself holds one rate over all of them; else none."""
    entries = comparison.entries
    _, parts = erasure_checks(comparison)
    named = [Column(_heading(id, entries, "↓"), _upper(id)) for id in parts]
    return [Column("System", lambda entry: entry.title), *named] if named else []


def render(comparison: Comparison) -> Table:
    """For a terminal."""
    return _rendered(comparison, columns(comparison))


def render_concepts(comparison: Comparison) -> Table | None:
    """The rates of every concept for a terminal; None where the table itself holds them."""
    chosen = concept_columns(comparison)
    return _rendered(comparison, chosen) if chosen else None


def _rendered(comparison: Comparison, chosen: Sequence[Column]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for index, column in enumerate(chosen):
        table.add_column(column.heading, justify="right" if index else "left", no_wrap=True)
    for entry in comparison.entries:
        style = "bold" if entry.id == POLICY else ""
        table.add_row(*(Text(column.cell(entry), style) for column in chosen))
    return table


def to_json(comparison: Comparison) -> Json:
    """Everything, for programs."""
    return {
        "schema_version": 1,
        "policy": comparison.plan.name,
        "policy_sha256": comparison.plan.source_sha256,
        "plan_sha256": comparison.plan.sha256,
        "facts": comparison.facts,
        "left_out": dict(comparison.left_out),
        "reference": POLICY,
        "rows": [entry.to_json() for entry in comparison.entries],
        "paired": {id: test._asdict() for id, test in comparison.tests.items()},
    }


def erasure_checks(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Ids of the erasure checks that decide, and of the parts that one over all of them has."""
    entries = comparison.entries
    parts = [id for id in _ids(entries, "erasure/") if id != OVER_ALL]
    if comparison.plan.verify.erasure.over == "each" or not _has(entries, OVER_ALL):
        return parts, []
    return [OVER_ALL], parts


def retention_checks(entries: Sequence[Entry]) -> list[str]:
    """Ids of the groups of things that are to stay."""
    return _ids(entries, "retention/")


def _has(entries: Sequence[Entry], id: str) -> bool:
    return any(id in entry.checks for entry in entries)


def _ids(entries: Sequence[Entry], prefix: str) -> list[str]:
    ids = dict.fromkeys(id for entry in entries for id in entry.checks)
    return [id for id in ids if id.startswith(prefix)]


def _heading(id: str, entries: Sequence[Entry], arrow: str) -> str:
    """The check's name with its number of prompts, which where pictures failed is a range."""
    name = "erased concepts" if id == OVER_ALL else id.partition("/")[2]
    counts = sorted({entry.checks[id].n for entry in entries if id in entry.checks} - {0})
    if not counts:
        return f"{name} {arrow}"
    ends = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    return f"{name} {arrow} (n = {ends})"


def _upper(id: str) -> Callable[[Entry], str]:
    return lambda entry: _bounded(entry.checks.get(id), "≤", "upper")


def _lower(id: str) -> Callable[[Entry], str]:
    return lambda entry: _bounded(entry.checks.get(id), "≥", "lower")


def _bounded(value: Measured | None, sign: str, side: str) -> str:
    if value is None or value.estimate is None:
        return "—"
    return f"{show(value.estimate)} {sign} {show(getattr(value, side))}"


def _plain(id: str) -> Callable[[Entry], str]:
    return lambda entry: show(entry.checks[id].estimate) if id in entry.checks else "—"


def _spread_of(id: str) -> Callable[[Entry], str]:
    """Mean ± standard deviation; a value without one stands alone."""

    def cell(entry: Entry) -> str:
        value = entry.checks.get(id)
        if value is None or value.estimate is None or value.std is None:
            return _plain(id)(entry)
        return f"{show(value.estimate)} ± {show(value.std)}"

    return cell


def _with_change(id: str) -> Callable[[Entry], str]:
    """The value itself and, signed, by how much it differs from the base's."""

    def cell(entry: Entry) -> str:
        value = entry.checks.get(id)
        if value is None or value.estimate is None:
            return "—"
        change = f"{value.estimate:+.3f}"
        return change if value.base is None else f"{value.base + value.estimate:.3f} ({change})"

    return cell


def _p(test: Paired | None) -> str:
    if test is None:
        return "—"
    return "<0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
