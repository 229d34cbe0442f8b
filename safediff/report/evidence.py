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
        id="evidence",
    )


def _subject(report: GateReport) -> Html:
    judge = {name: str(value) for name, value in sorted(report.judge.items())}
    times = {"started": report.started, "finished": report.finished}
    return join(
        _table(f"{report.subject}: model, SHA-256", report.model_sha256),
        _table(f"{report.subject}: judge", judge),
        _table(f"{report.subject}: environment", {**times, **report.environment}),
    )


def _table(title: str, facts: Mapping[str, str]) -> Html:
    rows = (
        el("tr", el("th", name, scope="row"), el("td", el("code", value)))
        for name, value in facts.items()
    )
    return el("table", el("caption", title), *rows, class_="evidence")
