"""The other sections of the page: first screen, subjects, limitations, training, appendix."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from safediff.gate.verdict import CheckResult, GateReport, combined
from safediff.report.data import Curve
from safediff.report.figures import curve
from safediff.report.parts import digest, facts, icon, pill
from safediff.report.words import SYMBOLS, counts, statement, worst_first

SCOPE = (
    "This says what these tests showed on that day. It says nothing about prompts, languages or "
    "attacks that were not tested."
)


def hero(reports: Sequence[GateReport], limitations: Sequence[str]) -> str:
    """The first screen: verdict, statement, counts, policy, hashes, date, what needs attention."""
    verdict = combined(reports)
    tally = "".join(
        f'<li class="v-{found.value}{"" if number else " zero"}">{icon(found.value)}'
        f"<span><b>{number}</b> {found.value}</span></li>"
        for found, number in reversed(counts(reports).items())
    )
    link = f' <a href="#limitations">Limitations ({len(limitations)})</a>.' if limitations else ""
    first = reports[0]
    hashes = {part: value for report in reports for part, value in report.model_sha256.items()}
    values = {
        "Policy": f"<b>{escape(first.policy_name)}</b>",
        "Policy SHA-256": digest(first.policy_sha256),
        "Plan SHA-256": digest(first.plan_sha256),
        **{
            f"{part[:1].upper()}{part[1:]} SHA-256": digest(value)
            for part, value in sorted(hashes.items())
        },
        "Judge": escape(_judge_name(first)),
        "Finished": escape(_moment(max(report.finished for report in reports))),
        "Pictures": f"{sum(report.num_images for report in reports):,}",
    }
    return (
        f'<div class="card hero v-{verdict.value}"><p class="verdict">{icon(verdict.value)}'
        f"{verdict.name}</p><h1>{escape(statement(reports))}</h1>"
        f'<p class="scope">{SCOPE}{link}</p><ul class="tally">{tally}</ul>'
        f"{_attention(reports)}{facts(values)}</div>"
    )


def title(reports: Sequence[GateReport]) -> str:
    """Title of the browser's tab."""
    verdict = combined(reports)
    return f"{SYMBOLS[verdict]} {verdict.name}: {reports[0].policy_name}"


def _attention(reports: Sequence[GateReport]) -> str:
    found: dict[CheckResult | tuple[str, str], list[str]] = {}
    first_of: dict[tuple[str, str], CheckResult] = {}
    for report in reports:
        for result in report.results:
            key = (result.id, result.message)
            first_of.setdefault(key, result)
            found.setdefault(key, []).append(report.subject)
    items = []
    for result in worst_first(first_of.values()):
        subjects = ", ".join(found[result.id, result.message])
        items.append(
            f'<li class="v-{result.verdict.value}">{icon(result.verdict.value)}'
            f"<span><b>{result.verdict.name}</b> {escape(subjects)}, <code>{escape(result.id)}"
            f"</code>: {escape(result.message)}</span></li>"
        )
    if not items:
        return ""
    return f'<div class="attention"><h3>Needs attention</h3><ul>{"".join(items)}</ul></div>'


def subjects(reports: Sequence[GateReport]) -> str:
    """One card per subject, side by side."""
    cards = "".join(_subject(report) for report in reports)
    return (
        '<section id="subjects"><h2>Subjects</h2><p class="lead">Measured by the same checks, with '
        f'the same prompts and seeds.</p><div class="subjects">{cards}</div></section>'
    )


def _subject(report: GateReport) -> str:
    found = [f"{number} {verdict.value}" for verdict, number in report.counts.items() if number]
    role = "decides" if report.decides else "for comparison"
    rows = {
        "checks": ", ".join(found) or "none",
        "pictures": f"{report.num_images:,}",
        "time": _duration(report.started, report.finished),
        "role": role,
    }
    items = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    return (
        f'<div class="card subject v-{report.verdict.value}"><h3>{escape(report.subject)}</h3>'
        f"{pill(report.verdict)}<dl>{items}</dl></div>"
    )


def limitations_section(limitations: Sequence[str]) -> str:
    """What was not tested or not shown."""
    items = "".join(f"<li>{escape(text)}</li>" for text in limitations)
    body = f"<ul>{items}</ul>" if items else '<p class="muted">None were stated.</p>'
    return (
        '<section id="limitations"><h2>Limitations</h2><p class="lead">What these results do not '
        f'cover.</p><div class="card limitations">{body}</div></section>'
    )


def training_section(training: Mapping[str, str], curves: Mapping[str, Curve]) -> str:
    """How the model was changed, with curves; empty where nothing is known."""
    if not training and not curves:
        return ""
    told = facts({name: escape(value) for name, value in training.items()})
    card = f'<div class="card training">{told}</div>' if training else ""
    charts = "".join(
        f'<div class="card"><h3>{escape(name)}</h3>{curve(name, points)}</div>'
        for name, points in curves.items()
        if curve(name, points)
    )
    return (
        '<section id="training"><h2>Training</h2><p class="lead">How the base model was changed; '
        f'curves over training steps.</p>{card}<div class="charts">{charts}</div></section>'
    )


def appendix(reports: Sequence[GateReport]) -> str:
    """Whole hashes, environment and how to read the intervals."""
    first = reports[0]
    hashes = {"policy": first.policy_sha256, "plan": first.plan_sha256}
    for report in reports:
        hashes |= {f"{report.subject}, {k}": v for k, v in sorted(report.model_sha256.items())}
    judge = {f"judge, {key}": str(value) for key, value in sorted(first.judge.items())}
    environment = dict(sorted(first.environment.items()))
    return (
        '<section id="appendix" class="appendix"><h2>Appendix</h2><p class="lead">What is needed '
        "to measure this again.</p>"
        f'<div class="card"><h3>Hashes and judge</h3>{_pairs({**hashes, **judge})}</div>'
        f'<div class="card"><h3>Environment</h3>{_pairs(environment)}</div>'
        '<div class="card"><h3>How to read the intervals</h3><p>The shaded side is what the policy '
        "allows, the dashed line its threshold, the dot the estimate. The taller end of an "
        "interval is the bound that decides. Every bound is one-sided at the stated confidence, so "
        "a check can miss its threshold although its estimate meets it: then too little was "
        "measured to prove it. Numbers under Base are what the base model shows.</p></div>"
        "</section>"
    )


def _pairs(values: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(value)}</code></td></tr>"
        for name, value in values.items()
    )
    return f'<table class="hashes">{rows}</table>'


def _judge_name(report: GateReport) -> str:
    return str(report.judge.get("name", "unknown"))


def _moment(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"


def _duration(started: str, finished: str) -> str:
    elapsed = datetime.fromisoformat(finished) - datetime.fromisoformat(started)
    minutes, seconds = divmod(round(elapsed.total_seconds()), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
