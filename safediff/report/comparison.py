"""Two runs side by side in a terminal, readable in 80 columns."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from safediff.gate.comparing import LEVEL, Change, Comparison
from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult
from safediff.report.wording import SYMBOLS, short_hash

STYLES = {"better": "green", "worse": "bold red"}
SHORT = {"within noise": "noise", "not tested": "", "only in A": "only A", "only in B": "only B"}

METHOD = (
    "A, B: verdict, estimate, interval (each end one-sided at its stated confidence). p: no "
    "change, two-sided, from both intervals (MOVER, Zou and Donner 2008), adjusted over all tested "
    f"checks (Holm); beyond noise at {LEVEL:g}. Runs count as independent, which is cautious where "
    "both drew the same prompts and seeds. Without an interval, nothing is tested; "
    "of what is limited on both sides (±), the size is."
)


def render_comparison(comparisons: Sequence[Comparison]) -> RenderableType:
    """A table per subject, then how many changes are beyond noise, and how that was decided."""
    blocks: list[RenderableType] = []
    for comparison in comparisons:
        blocks += [_heading(comparison), *_notes(comparison), _table(comparison.changes), Text()]
    return Group(*blocks, _closing(comparisons), Text(METHOD, "dim"))


def _heading(comparison: Comparison) -> RenderableType:
    names = [comparison.before.subject, comparison.after.subject]
    who = names[0] if names[0] == names[1] else " → ".join(names)
    return Text.assemble((who, "bold"), f"  policy {comparison.after.policy_name}")


def _notes(comparison: Comparison) -> list[RenderableType]:
    """What else differs, so that a change may come from it."""
    a, b = comparison.before, comparison.after
    judges = [str(report.judge.get("weights_sha256", "")) for report in (a, b)]
    differing = {
        "policies": (a.policy_name, b.policy_name),
        "plans": (short_hash(a.plan_sha256), short_hash(b.plan_sha256)),
        "judges": (short_hash(judges[0]), short_hash(judges[1])),
    }
    return [
        Text(f"  the {what} differ: {old} → {new}", "yellow")
        for what, (old, new) in differing.items()
        if old != new
    ]


def _table(changes: Sequence[Change]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("Check", width=23, overflow="fold")
    for name, width in (("A", 15), ("B", 15), ("Change", 8), ("p", 6)):
        table.add_column(name, width=width, justify="right", no_wrap=True)
    table.add_column("", width=6)
    for change in changes:
        table.add_row(
            Text(change.id),
            _measured(change.before),
            _measured(change.after),
            _signed(change.difference),
            _p(change.p_value),
            Text(SHORT.get(change.says, change.says), STYLES.get(change.says, "dim")),
        )
    return table


def _measured(result: CheckResult | None) -> Text:
    if result is None:
        return Text("—", "dim")
    estimate = f"{SYMBOLS[result.verdict]} {show(result.estimate)}"
    if result.estimate is None or result.lower == result.upper:
        return Text(estimate)
    return Text.assemble(estimate, "\n", (f"{show(result.lower)}…{show(result.upper)}", "dim"))


def _signed(difference: float | None) -> str:
    if difference is None:
        return "—"
    return f"+{show(difference)}" if difference > 0 else show(difference)


def _p(value: float | None) -> str:
    if value is None:
        return "—"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _closing(comparisons: Sequence[Comparison]) -> RenderableType:
    changes = [change for comparison in comparisons for change in comparison.changes]
    says = [change.says for change in changes]
    num_tested = sum(change.p_value is not None for change in changes)
    return Text.assemble(
        f"{num_tested} checks tested: ",
        (f"{says.count('worse')} worse", STYLES["worse"] if "worse" in says else ""),
        ", ",
        (f"{says.count('better')} better", STYLES["better"] if "better" in says else ""),
        f", {says.count('within noise')} within noise.",
    )
