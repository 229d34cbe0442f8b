"""The checks: one body per check, one row per subject, intervals on a common axis."""

from collections.abc import Sequence
from html import escape

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, Kind, Verdict
from safediff.report.figures import domain, interval
from safediff.report.parts import result_pill
from safediff.report.words import expectation

KINDS: dict[Kind, tuple[str, str]] = {
    "calibration": ("Judge", "Is the judge to be believed? Measured on planted pictures."),
    "base": ("Base model", "Does the base model show the concepts at all?"),
    "collapse": ("Collapse", "A destroyed model shows nothing; kept prompts must still come out."),
    "erasure": ("Erasure", "How often do erased concepts still appear?"),
    "retention": ("Retention", "Pictures that are right, against the base model on equal seeds."),
    "quality": ("Quality", "Distances between pictures of the base and of the changed model."),
    "parity": ("Engine parity", "Does the exported engine compute what PyTorch computes?"),
}

Row = tuple[str, CheckResult]
"""Subject and result."""

HEAD = (
    '<thead><tr><th scope="col">Subject</th><th scope="col">Interval against threshold</th>'
    '<th scope="col" class="num">Estimate</th><th scope="col" class="num">n</th>'
    '<th scope="col" class="num">Base</th><th scope="col" class="last">Verdict</th></tr></thead>'
)


def checks(reports: Sequence[GateReport]) -> str:
    """All checks, by kind."""
    parts = []
    for kind, (title, lead) in KINDS.items():
        gating = _rows(reports, kind, gating=True)
        information = _rows(reports, kind, gating=False)
        if not gating and not information:
            continue
        bodies = "".join(_check(rows) for rows in gating.values())
        table = f'<table class="card checks">{HEAD}{bodies}</table>' if bodies else ""
        parts.append(
            f'<section id="{kind}"><h2>{title}</h2><p class="lead">{lead}</p>{table}'
            f"{_information(reports, information)}</section>"
        )
    return "".join(parts)


def _rows(reports: Sequence[GateReport], kind: Kind, *, gating: bool) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for report in reports:
        for result in report.results:
            if result.kind == kind and result.gating == gating:
                rows.setdefault(result.id, []).append((report.subject, result))
    return rows


def _check(rows: list[Row]) -> str:
    results = [result for _, result in rows]
    first = results[0]
    if len(rows) > 1 and all(result == first for result in results):
        rows = [("all subjects", first)]
    confidence = f" at confidence {show(first.confidence)}" if _has_interval(first) else ""
    expected = [f"<span>expected {escape(expectation(first.threshold))}{confidence}</span>"]
    if first.policy_line is not None:
        expected.append(f"<span>policy line {first.policy_line}</span>")
    axis = domain(results)
    name = f"{first.metric[:1].upper()}{first.metric[1:]}"
    concept = "" if first.concept == "all" else f", {first.concept}"
    return (
        f'<tbody class="check"><tr><th class="name" colspan="6">{escape(name + concept)} '
        f'<span class="expect"><code>{escape(first.id)}</code>{"".join(expected)}</span></th></tr>'
        f"{''.join(_row(subject, result, axis) for subject, result in rows)}"
        f"{_messages(rows)}</tbody>"
    )


def _has_interval(result: CheckResult) -> bool:
    return result.confidence is not None and result.interval != "none"


def _row(subject: str, result: CheckResult, axis: tuple[float, float]) -> str:
    bounds = (
        f'<span class="tag">{show(result.lower)} to {show(result.upper)}</span>'
        if _has_interval(result) and result.lower is not None
        else ""
    )
    return (
        f'<tr class="v-{result.verdict.value}"><th scope="row">{escape(subject)}</th>'
        f'<td class="figure">{interval(result, axis)}</td>'
        f'<td class="num" data-label="estimate">{show(result.estimate)}{bounds}</td>'
        f'<td class="num" data-label="n">{result.num_samples:,}</td>'
        f'<td class="num" data-label="base">{show(result.base_value)}</td>'
        f'<td class="last">{result_pill(result)}</td></tr>'
    )


def _messages(rows: list[Row]) -> str:
    """What is not PASS in words, at once; the rest on request."""
    loud = [row for row in rows if row[1].verdict is not Verdict.PASS]
    quiet = [row for row in rows if row[1].verdict is Verdict.PASS]
    parts = "".join(_message(row, named=len(rows) > 1) for row in loud)
    if quiet:
        told = "".join(_message(row, named=len(rows) > 1) for row in quiet)
        interval_name = escape(quiet[0][1].interval)
        method = f"<p>Interval: {interval_name}.</p>" if _has_interval(quiet[0][1]) else ""
        parts += f"<details><summary>What was measured</summary>{told}{method}</details>"
    return f'<tr class="message"><td colspan="6">{parts}</td></tr>'


def _message(row: Row, *, named: bool) -> str:
    subject, result = row
    prefix = f"<b>{escape(subject)}</b>: " if named else ""
    return f'<p class="v-{result.verdict.value}">{prefix}{escape(result.message)}</p>'


def _information(reports: Sequence[GateReport], rows: dict[str, list[Row]]) -> str:
    """Rows without a limit of their own, compact: concepts down, subjects across."""
    if not rows:
        return ""
    subjects = [report.subject for report in reports]
    head = "".join(f'<th scope="col" class="num">{escape(subject)}</th>' for subject in subjects)
    body = []
    for found in rows.values():
        results = dict(found)
        first = found[0][1]
        cells = "".join(
            f'<td class="num">{_compact(results[subject]) if subject in results else ""}</td>'
            for subject in subjects
        )
        body.append(
            f'<tr><th scope="row">{escape(first.concept)}</th>'
            f'<td class="num">{show(first.base_value)}</td>{cells}</tr>'
        )
    return (
        '<div class="card concepts"><h3>Concept by concept</h3><p class="small muted">Estimate and '
        "upper bound. For information: the limit holds over all concepts together; a concept that "
        "is alone proven to be above it is marked.</p>"
        '<div class="scroll"><table><thead><tr><th scope="col">Concept</th>'
        f'<th scope="col" class="num">base</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></div>"
    )


def _compact(result: CheckResult) -> str:
    mark = "" if result.verdict is Verdict.PASS else f" {result_pill(result)}"
    return f'{show(result.estimate)} <span class="muted">≤ {show(result.upper)}</span>{mark}'
