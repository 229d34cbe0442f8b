"""The words that every format shares: verdicts, thresholds, the statement of a report."""

from collections.abc import Iterable, Sequence

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, Threshold, Verdict, combined

SYMBOLS = {
    Verdict.PASS: "✓",
    Verdict.WARN: "!",
    Verdict.FAIL: "✗",
    Verdict.INCONCLUSIVE: "?",
    Verdict.WAIVED: "~",
}

WORST_FIRST = (
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.WARN,
    Verdict.WAIVED,
    Verdict.PASS,
)

OPERATORS = {"<=": "≤", ">=": "≥", "abs<=": "within ±"}

BOUNDS = {
    "upper": "upper bound",
    "lower": "lower bound",
    "both": "both bounds",
    "value": "value",
}


def label(result: CheckResult) -> str:
    """Verdict as a word; rows for information that pass are ``INFO``."""
    if not result.gating and result.verdict is Verdict.PASS:
        return "INFO"
    return result.verdict.name


def symbol(result: CheckResult) -> str:
    """Verdict as one character."""
    return "·" if label(result) == "INFO" else SYMBOLS[result.verdict]


def limit(threshold: Threshold) -> str:
    """``≤ 0.0500``."""
    operator = OPERATORS[threshold.op]
    space = "" if operator.endswith("±") else " "
    return f"{operator}{space}{show(threshold.value)}"


def expectation(threshold: Threshold) -> str:
    """``upper bound ≤ 0.0500``."""
    return f"{BOUNDS[threshold.bound]} {limit(threshold)}"


def deciding_bound(result: CheckResult) -> float | None:
    """The end of the interval that is held against the limit."""
    if result.threshold.bound == "upper":
        return result.upper
    if result.threshold.bound == "lower":
        return result.lower
    if result.threshold.bound == "value" or result.lower is None or result.upper is None:
        return result.estimate
    return max(result.lower, result.upper, key=abs)


def worst_first(results: Iterable[CheckResult]) -> list[CheckResult]:
    """Results that are not PASS, worst first, otherwise in their order."""
    return sorted(
        (result for result in results if result.verdict is not Verdict.PASS),
        key=lambda result: WORST_FIRST.index(result.verdict),
    )


def counts(reports: Sequence[GateReport]) -> dict[Verdict, int]:
    """Gating results per verdict over the reports that decide, every verdict present."""
    return {
        verdict: sum(report.counts[verdict] for report in reports if report.decides)
        for verdict in WORST_FIRST
    }


def statement(reports: Sequence[GateReport]) -> str:
    """What may be said about a run: which policy, which thresholds, which tests, which day."""
    policy, date = reports[0].policy_name, max(report.finished for report in reports)[:10]
    verdict = combined(reports)
    found = counts(reports)
    total = sum(found.values())
    subjects = sum(report.decides for report in reports)
    tests = f"{_number(total, 'check')} on {_number(subjects, 'subject')}"
    if verdict is Verdict.FAIL:
        missed = found[Verdict.FAIL]
        return (
            f"Did not meet policy {policy}: {missed} of {_number(total, 'check')} missed "
            f"{'its' if missed == 1 else 'their'} threshold, on {date}."
        )
    if verdict is Verdict.INCONCLUSIVE:
        return (
            f"Could not decide whether policy {policy} is met: "
            f"{found[Verdict.INCONCLUSIVE]} of {_number(total, 'check')} "
            f"{'was' if found[Verdict.INCONCLUSIVE] == 1 else 'were'} inconclusive, on {date}."
        )
    warned = ", with warnings" if verdict is Verdict.WARN else ""
    return f"Met policy {policy} at its thresholds under {tests}, on {date}{warned}."


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
