"""The first screen: verdict, claim, identity, counts; what was shown beside what was not."""

from collections.abc import Sequence

from safediff.gate.verdict import CheckResult, GateReport, Verdict, combined
from safediff.report.badges import badge, hash_code, verdict_svg
from safediff.report.data import ReportData
from safediff.report.markup import Html, el, join
from safediff.report.wording import (
    by_verdict,
    claim,
    findings,
    limit_text,
    number_text,
    title_of,
)

HEADLINES = {
    Verdict.PASS: "Policy met",
    Verdict.WARN: "Policy met, with warnings",
    Verdict.FAIL: "Policy not met",
    Verdict.INCONCLUSIVE: "Inconclusive",
}


def opening(data: ReportData) -> Html:
    """Everything above the checks."""
    return el(
        "header",
        _bar(data),
        _hero(data.reports),
        el("div", *map(_subject, data.reports), class_="subjects"),
        _identity(data.reports),
        _attention(data.reports),
        _shown_and_not(data),
    )


def _bar(data: ReportData) -> Html:
    links = [("#checks", "Checks"), ("#limitations", "Limitations")]
    links += [("#pictures", "Pictures")] if data.grids else []
    links += [("#training", "Training")] if data.training or data.curves else []
    links.append(("#evidence", "Evidence"))
    return el(
        "div",
        el("p", el("b", "safediff"), " verification report", class_="brand"),
        el("nav", *(el("a", text, href=href) for href, text in links), aria_label="Sections"),
        class_="bar",
    )


def _hero(reports: Sequence[GateReport]) -> Html:
    verdict = combined(reports)
    deciding = by_verdict([report for report in reports if report.decides])
    claims = [el("p", *_claim(group), class_="claim") for group in deciding]
    missing = el("p", "No subject that decides was measured.", class_="claim")
    return el(
        "div",
        verdict_svg(verdict),
        el(
            "div",
            el("p", verdict.value.upper(), class_="eyebrow"),
            el("h1", HEADLINES[verdict]),
            *(claims or [missing]),
        ),
        class_=f"hero v-{verdict.value}",
    )


def _claim(group: Sequence[GateReport]) -> tuple[str, ...]:
    who, said, conditions = claim(group)
    return f"{who[:1].upper()}{who[1:]} ", el("strong", said), f" {conditions}."


def _subject(report: GateReport) -> Html:
    counts = (
        el(
            "li",
            verdict_svg(verdict),
            el("b", str(count)),
            f" {verdict.value}",
            class_=f"v-{verdict.value}" if count else "none",
        )
        for verdict, count in report.counts.items()
    )
    role = "Decides the verdict" if report.decides else "For comparison only"
    return el(
        "section",
        el("h2", report.subject),
        badge(report.verdict),
        el("p", f"{role} · {report.num_images:,} pictures", class_="quiet"),
        el("ul", *counts, class_="counts"),
        class_=f"subject v-{report.verdict.value}",
    )


def _identity(reports: Sequence[GateReport]) -> Html:
    first = reports[0]
    facts: list[tuple[str, str]] = [
        ("Policy", join(first.policy_name, " ", hash_code(first.policy_sha256))),
        ("Plan", hash_code(first.plan_sha256)),
        *((_part(part, names), hash_code(sha256)) for part, sha256, names in _models(reports)),
        ("Judges" if len(first.judges) > 1 else "Judge", _judges(first)),
        ("Finished", max(report.finished for report in reports)),
    ]
    return el(
        "dl",
        *(el("div", el("dt", name), el("dd", value)) for name, value in facts),
        class_="facts",
    )


def _judges(report: GateReport) -> str:
    return ", ".join(str(judge.get("name", "—")) for judge in report.judges or (report.judge,))


def _models(reports: Sequence[GateReport]) -> list[tuple[str, str, list[str]]]:
    """Every distinct (part, hash) with the subjects that have it."""
    found: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        for part, sha256 in report.model_sha256.items():
            found.setdefault((part, sha256), []).append(report.subject)
    return [(part, sha256, subjects) for (part, sha256), subjects in found.items()]


def _part(part: str, subjects: Sequence[str]) -> str:
    if part == "base":
        return "Base model"
    return f"{part} · {', '.join(subjects)}"


def _attention(reports: Sequence[GateReport]) -> Html:
    found = findings([report for report in reports if report.decides])
    if not found:
        return Html("")
    rows = (
        el(
            "li",
            badge(result.verdict),
            el("span", f"{report.subject} · {result.id}", class_="where"),
            el("p", result.message),
        )
        for report, result in found
    )
    return el(
        "section",
        el("h2", "What needs attention"),
        el("ul", *rows),
        class_="attention",
        aria_label="What needs attention",
    )


def _shown_and_not(data: ReportData) -> Html:
    shown = [el("li", text) for text in _passes(data.reports)]
    limits = [el("li", text) for text in data.limitations]
    return el(
        "div",
        el(
            "section",
            el("h2", "What was shown"),
            el("ul", *shown) if shown else el("p", "Nothing: no check passed."),
            class_="shown",
        ),
        el(
            "section",
            el("h2", "What was not"),
            el("ul", *limits)
            if limits
            else el("p", "No limitations were recorded. Ask for them before you rely on this."),
            class_="not-shown",
            id="limitations",
        ),
        class_="two",
    )


def _passes(reports: Sequence[GateReport]) -> list[Html]:
    """One sentence per check that passed for every subject that decides."""
    deciding = [report for report in reports if report.decides]
    ids = dict.fromkeys(r.id for report in deciding for r in report.results if r.gating)
    sentences = []
    for check in ids:
        found = [r for report in deciding for r in report.results if r.id == check]
        if all(r.verdict is Verdict.PASS for r in found):
            sentences.append(_sentence(found))
    return sentences


def _sentence(found: Sequence[CheckResult]) -> Html:
    first = found[0]
    name = title_of(first)
    if first.kind in ("base", "collapse", "erasure", "robustness", "retention", "parity"):
        name = f"{name}: {first.metric}"
    bound = first.threshold.bound
    what = {"value": "measured", "both": "between"}.get(bound, f"{bound} bound")
    values = " / ".join(dict.fromkeys(_decided_on(result) for result in found))
    return join(f"{name} ", el("b", limit_text(first.threshold)), f" ({what} {values})")


def _decided_on(result: CheckResult) -> str:
    """What was held against the limit."""
    bound = result.threshold.bound
    if bound == "both":
        return f"{number_text(result, 'lower')} and {number_text(result, 'upper')}"
    return number_text(result, "estimate" if bound == "value" else bound)
