"""The words that table, Markdown and HTML share. None of them says more than was measured."""

from collections.abc import Sequence
from typing import Literal

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, Kind, Threshold, Verdict

SYMBOLS = {
    Verdict.PASS: "✓",
    Verdict.WARN: "!",
    Verdict.FAIL: "✗",
    Verdict.INCONCLUSIVE: "?",
    Verdict.WAIVED: "~",
}

SEVERITY = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.WARN, Verdict.WAIVED, Verdict.PASS)
"""Worst first."""

KIND_QUESTIONS: dict[Kind, str] = {
    "calibration": "Can the judge be believed?",
    "base": "Was there something to erase?",
    "collapse": "Does the model still draw?",
    "erasure": "Are the concepts gone?",
    "robustness": "Do they stay away under attack?",
    "retention": "Did everything else stay?",
    "quality": "Did the pictures stay alike?",
    "parity": "Is the engine the same model?",
    "baseline": "Is it as good as the baseline?",
}
"""In the order in which a report answers them."""

METRIC_NAMES = {
    "kid": "KID",
    "fid": "FID",
    "clip": "CLIP-like score change",
    "lpips": "Perceptual distance",
    "null_drift": "Null-prompt drift",
}

ATTACK_NAMES = {
    "ring-a-bell-embedding": "Ring-A-Bell",
    "ring-a-bell": "Ring-A-Bell search",
    "unlearn-diff-atk": "UnlearnDiffAtk",
}
"""Where the name in a policy is no title."""

CLAIMS = {
    Verdict.PASS: "met policy",
    Verdict.WARN: "met policy",
    Verdict.FAIL: "did not meet policy",
    Verdict.INCONCLUSIVE: "was not shown to meet policy",
}

OPERATORS = {"<=": "≤", ">=": "≥", "abs<=": "±"}

HASH_LENGTH = 12


def short_hash(sha256: str) -> str:
    """First characters of a hash, enough to compare by eye."""
    return sha256[:HASH_LENGTH]


def verdict_text(verdict: Verdict) -> str:
    """Symbol and word, for places without colour."""
    return f"{SYMBOLS[verdict]} {verdict.value.upper()}"


def says_nothing_alone(result: CheckResult) -> bool:
    """Whether this is a row for information that shows nothing unusual: not a pass of its own."""
    return not result.gating and result.verdict is Verdict.PASS


def result_text(result: CheckResult) -> str:
    """Symbol and word of a result."""
    return "· for info" if says_nothing_alone(result) else verdict_text(result.verdict)


def limit_text(threshold: Threshold) -> str:
    """Write a threshold: ``≤ 0.05``."""
    return f"{OPERATORS[threshold.op]} {threshold.value:.6g}"


def bounds_text(result: CheckResult) -> str:
    """The end or ends of the interval that are held against the limit; empty if the value is."""
    bound = result.threshold.bound
    if result.estimate is None or bound == "value":
        return ""
    if bound == "both":
        return f"{number_text(result, 'lower')} … {number_text(result, 'upper')}"
    return f"{bound} {number_text(result, bound)}"


def number_text(result: CheckResult, name: Literal["estimate", "lower", "upper"]) -> str:
    """The estimate or an end of its interval; what is held against the limit stays on its side."""
    value: float | None = getattr(result, name)
    held = {"value": ("estimate",), "both": ("lower", "upper")}
    bound = result.threshold.bound
    return beside_limit(result, value) if name in held.get(bound, (bound,)) else show(value)


def beside_limit(result: CheckResult, value: float | None) -> str:
    """A number that is held against the limit of a check."""
    below = result.threshold.op == "abs<=" and value is not None and value < 0
    return show(value, -result.threshold.value if below else result.threshold.value)


def title_of(result: CheckResult) -> str:
    """Name of a check within its kind."""
    if result.kind == "quality":
        return METRIC_NAMES.get(result.metric, result.metric)
    if result.kind == "collapse":
        return "Kept prompts"
    if result.kind == "baseline":
        return "Every check"
    if result.kind == "calibration":
        return result.metric[:1].upper() + result.metric[1:]
    name = result.id.partition("/")[2] or result.id
    if result.kind == "robustness":
        name = ATTACK_NAMES.get(name, name)
    if result.id in ("erasure/all", "base/all"):
        return "All concepts"
    return name[:1].upper() + name[1:]


def num_gating(report: GateReport) -> int:
    """Number of checks that the verdict rests on."""
    return sum(result.gating for result in report.results)


def claim(reports: Sequence[GateReport]) -> tuple[str, str, str]:
    """The sentence about reports of one verdict: who, what is claimed, under which conditions.

    Joined by spaces: "teacher met policy demo at the thresholds of plan 0123456789ab under 9
    tests on 2026-11-24".
    """
    first, verdict = reports[0], reports[0].verdict
    who = _join([report.subject for report in reports])
    said = CLAIMS[verdict]
    if len(reports) > 1:
        said = said.replace("was not shown", "were not shown")
    num_tests = max(num_gating(report) for report in reports)
    conditions = (
        f"at the thresholds of plan {short_hash(first.plan_sha256)} under {num_tests} "
        f"{'test' if num_tests == 1 else 'tests'} on {max(r.finished for r in reports)[:10]}"
    )
    if verdict is Verdict.WARN:
        conditions += ", with warnings"
    return who, f"{said} {first.policy_name}", conditions


def statement(report: GateReport) -> str:
    """The sentence about one report."""
    return " ".join(claim([report])) + "."


def by_verdict(reports: Sequence[GateReport]) -> list[list[GateReport]]:
    """Group reports that say the same, worst first."""
    groups = [[report for report in reports if report.verdict is verdict] for verdict in SEVERITY]
    return [group for group in groups if group]


def counts_text(report: GateReport) -> str:
    """Count the gating checks: ``8 passed, 1 failed``; verdicts that did not occur are left out."""
    words = {Verdict.PASS: "passed", Verdict.WARN: "warned", Verdict.FAIL: "failed"}
    found = [
        f"{n} {words.get(verdict, verdict.value)}" for verdict, n in report.counts.items() if n
    ]
    return ", ".join(found) or "no check"


def findings(reports: Sequence[GateReport]) -> list[tuple[GateReport, CheckResult]]:
    """Every result other than PASS, worst first, in the order of the reports.

    Rows for information are left out where a check of their kind fails: it says so already.
    """
    found = []
    for report in reports:
        failed = {r.kind for r in report.results if r.gating and r.verdict is Verdict.FAIL}
        found += [
            (report, result)
            for result in report.results
            if result.verdict is not Verdict.PASS and (result.gating or result.kind not in failed)
        ]
    return sorted(found, key=lambda pair: SEVERITY.index(pair[1].verdict))


def _join(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
