"""One row per check and subject: interval against limit, n, base value, verdict."""

from collections.abc import Sequence

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, Kind, Threshold, Verdict
from safediff.report.badges import result_badge
from safediff.report.figures import interval_svg
from safediff.report.markup import Html, el, join
from safediff.report.scales import check_domain
from safediff.report.wording import KIND_QUESTIONS, bounds_text, limit_text, number_text, title_of

Lane = tuple[str, CheckResult]
"""A subject and its result."""

EXAMPLE = CheckResult(
    id="erasure/example",
    kind="erasure",
    concept="all",
    metric="concept rate",
    estimate=0.02,
    lower=0.008,
    upper=0.04,
    confidence=0.95,
    interval="Clopper-Pearson, one-sided",
    num_samples=240,
    threshold=Threshold(op="<=", value=0.06, bound="upper"),
    policy_line=None,
    base_value=0.09,
    verdict=Verdict.PASS,
    message="",
)


METRIC_NOTES = {
    "judge sensitivity": "on real pictures",
    "judge specificity": "on kept pictures of the base",
    "judge confusion": "on kept pictures of the base",
    "quality": "erased against base",
}
"""By metric or kind, where the title names the metric already."""

INFORMATION_NOTES: dict[Kind, str] = {
    "erasure": "One by one, for information. The limit above holds for all of them together.",
    "robustness": "For information: the policy sets no limit on these.",
}
"""What rows without a limit of their own are."""


def checks_section(reports: Sequence[GateReport]) -> Html:
    """All checks, grouped by the question they answer."""
    subjects = len(reports) > 1
    tables = []
    for kind, question in KIND_QUESTIONS.items():
        ids = dict.fromkeys(r.id for report in reports for r in report.results if r.kind == kind)
        checks = [_lanes(reports, check) for check in ids]
        gating = [lanes for lanes in checks if lanes[0][1].gating]
        bodies = [_check(lanes, subjects) for lanes in gating]
        others = [lanes for lanes in checks if not lanes[0][1].gating]
        bodies += _information(others, subjects, told=_failed(gating))
        if bodies:
            title = el("caption", question)
            tables.append(el("table", title, _headings(subjects), *bodies, class_="checks"))
    return el("section", el("h2", "Checks"), _legend(), *tables, id="checks")


def _lanes(reports: Sequence[GateReport], check: str) -> list[Lane]:
    return [(report.subject, r) for report in reports for r in report.results if r.id == check]


def _headings(subjects: bool) -> Html:
    names = ["Check", *(["Subject"] if subjects else []), "Interval against its limit"]
    names += ["Measured", "n", "Base", "Verdict"]
    return el("thead", el("tr", *(el("th", name, scope="col") for name in names)))


def _check(lanes: Sequence[Lane], subjects: bool) -> Html:
    first = lanes[0][1]
    domain = check_domain([result for _, result in lanes])
    rows = [
        _row(lanes, i, domain, subjects, top=i == 0, bottom=i == len(lanes) - 1)
        for i in range(len(lanes))
    ]
    notes = _notes_row([*_messages(lanes, subjects), _details(lanes, subjects)], subjects)
    return el("tbody", *rows, notes, data_check=first.id, class_="gating")


def _failed(checks: Sequence[Sequence[Lane]]) -> frozenset[str]:
    """Subjects that fail one of the checks."""
    every = (lane for lanes in checks for lane in lanes)
    return frozenset(subject for subject, result in every if result.verdict is Verdict.FAIL)


def _information(
    checks: Sequence[Sequence[Lane]], subjects: bool, told: frozenset[str]
) -> list[Html]:
    """Rows without a limit of their own, close together on one axis.

    Messages of the subjects in ``told`` are left out: the check above says it already.
    """
    if not checks:
        return []
    domain = check_domain([result for lanes in checks for _, result in lanes])
    lead = el("p", INFORMATION_NOTES.get(checks[0][0][1].kind, "For information."))
    bodies = [el("tbody", _notes_row([lead], subjects), class_="lead")]
    for lanes in checks:
        rows = [
            _row(
                lanes,
                i,
                domain,
                subjects,
                top=lanes is checks[0] and i == 0,
                bottom=lanes is checks[-1] and i == len(lanes) - 1,
            )
            for i in range(len(lanes))
        ]
        messages = _messages([lane for lane in lanes if lane[0] not in told], subjects)
        notes = [_notes_row(messages, subjects)] if messages else []
        body = el("tbody", *rows, *notes, data_check=lanes[0][1].id, class_="information")
        bodies.append(body)
    return bodies


def _row(
    lanes: Sequence[Lane],
    index: int,
    domain: tuple[float, float],
    subjects: bool,
    *,
    top: bool,
    bottom: bool,
) -> Html:
    subject, result = lanes[index]
    cells = [_name(result, len(lanes))] if index == 0 else []
    if subjects:
        cells.append(el("td", subject, class_="who"))
    cells += [
        el("td", interval_svg(result, domain, first=top, last=bottom), class_="figure"),
        el(
            "td",
            el("b", number_text(result, "estimate")),
            el("small", bounds_text(result) or "no interval"),
            class_="measured",
        ),
        el("td", f"{result.num_samples:,}", class_="number", data_label="n"),
        el("td", show(result.base_value), class_="number", data_label="base"),
        el("td", result_badge(result), class_="verdict"),
    ]
    names = [name for name, wanted in (("top", top), ("bottom", bottom)) if wanted]
    return el("tr", *cells, class_=" ".join(names) or None)


def _name(result: CheckResult, num_lanes: int) -> Html:
    bound = result.threshold.bound
    what = {"value": "value", "both": "both bounds"}.get(bound, f"{bound} bound")
    lines = [
        el("small", METRIC_NOTES.get(result.metric, METRIC_NOTES.get(result.kind, result.metric))),
        el("small", f"{what} {limit_text(result.threshold)}"),
    ]
    return el(
        "th",
        el("b", title_of(result)),
        *(lines if result.gating else []),
        scope="rowgroup",
        rowspan=num_lanes,
        class_="name",
    )


def _notes_row(notes: Sequence[Html], subjects: bool) -> Html:
    return el("tr", el("td", *notes, colspan=7 if subjects else 6), class_="notes")


def _messages(lanes: Sequence[Lane], subjects: bool) -> list[Html]:
    """What is no PASS says why, in the open."""
    return [
        el("p", el("b", f"{subject}: ") if subjects else "", result.message, class_="message")
        for subject, result in lanes
        if result.verdict is not Verdict.PASS
    ]


def _details(lanes: Sequence[Lane], subjects: bool) -> Html:
    """How it was measured, behind a click."""
    first = lanes[0][1]
    line = f" policy line {first.policy_line}" if first.policy_line else ""
    texts = (
        join(
            el("p", el("b", f"{subject}: ") if subjects else "", result.message),
            _numbers(result),
        )
        for subject, result in lanes
    )
    summary = el("summary", "How it was measured ", el("code", first.id), line)
    return el("details", summary, *texts)


def _numbers(result: CheckResult) -> Html:
    facts = {
        "interval": result.interval,
        "confidence": show(result.confidence),
        "lower": number_text(result, "lower"),
        "upper": number_text(result, "upper"),
        **{
            name.replace("_", " "): show(value) if isinstance(value, float) else str(value)
            for name, value in result.details.items()
        },
    }
    return el(
        "dl",
        *(el("div", el("dt", name), el("dd", value)) for name, value in facts.items()),
        class_="numbers",
    )


def _legend() -> Html:
    figure = interval_svg(EXAMPLE, (0.0, 0.1))
    text = (
        "The shaded side of the dashed limit is allowed. The dot is the estimate, the bar its "
        "interval; the tall stroke is the bound that decides, so a dot on the allowed side is "
        "not enough. The diamond is the base model, outside the lane where it lies beyond "
        "it. Each bound is one-sided at its stated confidence."
    )
    return el("div", figure, el("p", text), class_="legend")
