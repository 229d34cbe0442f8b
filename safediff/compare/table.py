"""The comparison as a table: the same columns in a terminal, in Markdown and in JSON."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from safediff.compare.entry import Entry, Measured, Paired, paired_tests
from safediff.compare.rows import OTHER_SEED, POLICY
from safediff.gate.numbers import show
from safediff.gate.robustness import ALIGNMENT
from safediff.policy.plan import Plan

Json = dict[str, Any]


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
    tests = comparison.tests
    ids = [id for entry in comparison.entries for id in entry.checks]
    erasure = [id for id in dict.fromkeys(ids) if id.startswith("erasure/")]
    gated = ["erasure/all"] if "erasure/all" in erasure else erasure
    retention = [id for id in dict.fromkeys(ids) if id.startswith("retention/")]
    found = [Column("System", lambda entry: entry.title)]
    found += [Column(_erased_heading(id), _upper(id)) for id in gated]
    found.append(Column("p", lambda entry: _p(tests.get(entry.id))))
    found += [Column(f"{id.partition('/')[2]} ↑", _lower(id)) for id in retention]
    attacks = [id for id in dict.fromkeys(ids) if id.startswith("robustness/") and id != ALIGNMENT]
    found += [Column(f"{id.partition('/')[2]} ↓", _upper(id)) for id in attacks]
    found += [
        Column("FID ↓", _plain("quality/fid")),
        Column("KID ↓", _upper("quality/kid")),
        Column("LPIPS", _plain("quality/lpips")),
        Column("ΔCLIP", _plain("quality/clip")),
        Column("passes", lambda entry: f"{entry.erase_passes:,}"),
        Column("s", lambda entry: f"{entry.erase_seconds:.0f}"),
        Column("cost/image", lambda entry: f"{entry.passes_per_step / 2:g} x"),
    ]
    return found


def render(comparison: Comparison) -> Table:
    """For a terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    chosen = columns(comparison)
    for index, column in enumerate(chosen):
        table.add_column(column.heading, justify="right" if index else "left", no_wrap=True)
    for entry in comparison.entries:
        style = "bold" if entry.id == POLICY else ""
        table.add_row(*(Text(column.cell(entry), style) for column in chosen))
    return table


def markdown(comparison: Comparison) -> str:
    """The table with what it rests on."""
    chosen = columns(comparison)
    lines = [
        f"# {comparison.plan.name}: all systems, one protocol",
        "",
        "| " + " | ".join(column.heading for column in chosen) + " |",
        "|" + "---|" * len(chosen),
    ]
    lines += [
        "| " + " | ".join(column.cell(entry) for column in chosen) + " |"
        for entry in comparison.entries
    ]
    return "\n".join([*lines, "", *notes(comparison), ""])


def notes(comparison: Comparison) -> list[str]:
    """How the table is to be read."""
    sampling = comparison.plan.verify.sampling
    reference = comparison.reference
    n = len(reference.hits)
    facts = comparison.facts
    return [
        f"Erasure: rate with its one-sided 95 % upper bound (n = {n} prompts), corrected for the "
        "judge; the same prompts, latents and judge in every row. p: exact McNemar test of these "
        f'prompts against "{reference.title}", adjusted over the rows (Holm).',
        "",
        "Retention: P(right | row) / P(right | base) with its one-sided 95 % lower bound, paired.",
        "FID, KID (with its upper bound over subsets), LPIPS and the change of the CLIP-like score "
        "compare kept pictures with the base's, on the judge's features.",
        "",
        f"Sampling: {sampling.num_steps} steps of the model's scheduler, guidance "
        f"{sampling.guidance_scale:g}, seed {sampling.seed}. Guards whose warm-up is counted in "
        "steps use the published counts. Published settings are used as published, on a model "
        "that they were not chosen for; rows marked fitted use settings that were chosen on the "
        "embedded model.",
        "",
        *_spread(comparison),
        *(f"- {name}: {value}" for name, value in facts.items()),
    ]


def _spread(comparison: Comparison) -> list[str]:
    """How far apart two training seeds of the policy's own row end."""
    other = next((entry for entry in comparison.entries if entry.id == OTHER_SEED), None)
    if other is None:
        return []
    pairs = [
        f"{id.partition('/')[2]} {show(own.estimate)} and {show(other.checks[id].estimate)}"
        for id, own in comparison.reference.checks.items()
        if id.startswith(("erasure/", "retention/")) and id in other.checks
        if own.estimate is not None
    ]
    return [f"Erased with two training seeds: {'; '.join(pairs)}.", ""]


def to_json(comparison: Comparison) -> Json:
    """Everything, for programs."""
    return {
        "schema_version": 1,
        "policy": comparison.plan.name,
        "policy_sha256": comparison.plan.source_sha256,
        "plan_sha256": comparison.plan.sha256,
        "facts": comparison.facts,
        "reference": POLICY,
        "rows": [entry.to_json() for entry in comparison.entries],
        "paired": {id: test._asdict() for id, test in comparison.tests.items()},
    }


def _erased_heading(id: str) -> str:
    name = id.partition("/")[2]
    return "erased concepts ↓" if name == "all" else f"{name} ↓"


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


def _p(test: Paired | None) -> str:
    if test is None:
        return "—"
    return "<0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
