"""What the verdict refers to: whole hashes, the judge, the environment."""

from collections.abc import Mapping, Sequence

from safediff.gate.verdict import GateReport
from safediff.report.markup import Html, el, join


def evidence_section(reports: Sequence[GateReport]) -> Html:
    """Identity of policy, plan and every subject, in full."""
    first = reports[0]
    shared = {"policy": first.policy_sha256, "plan": first.plan_sha256}
    meaning = (
        "A verdict holds for exactly these files, this policy and these tests on the stated date. "
        "It says nothing about prompts that were not drawn or attacks that were not tried."
    )
    return el(
        "section",
        el("h2", "Evidence"),
        el("p", meaning),
        _table("Policy and plan, SHA-256", shared),
        *map(_subject, reports),
        *_judges(reports),
        _shared("Environment", [(r.subject, r.environment) for r in reports]),
        id="evidence",
    )


def _subject(report: GateReport) -> Html:
    facts = {**report.model_sha256, "started": report.started, "finished": report.finished}
    return _table(f"{report.subject}: model, SHA-256, and time", facts)


def _judges(reports: Sequence[GateReport]) -> list[Html]:
    """A table for every judge, with the checks whose pictures it looked at."""
    found: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for report in reports:
        for judge in report.judges or (report.judge,):
            facts = {name: _text(value) for name, value in judge.items()}
            found.setdefault(str(judge.get("name", "")), []).append((report.subject, facts))
    return [_shared("Judge" if len(found) == 1 else f"Judge {n}", f) for n, f in found.items()]


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _shared(title: str, facts: Sequence[tuple[str, Mapping[str, str]]]) -> Html:
    """One table for every distinct set of facts, with the subjects that it holds for."""
    distinct: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for subject, values in facts:
        distinct.setdefault(tuple(sorted(values.items())), []).append(subject)
    return join(
        *(
            _table(title if len(distinct) == 1 else f"{title}: {', '.join(subjects)}", dict(values))
            for values, subjects in distinct.items()
        )
    )


def _table(title: str, facts: Mapping[str, str]) -> Html:
    rows = (
        el("tr", el("th", name, scope="row"), el("td", el("code", value)))
        for name, value in facts.items()
    )
    return el("table", el("caption", title), *rows, class_="evidence")
