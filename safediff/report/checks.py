"""One row per check and subject: interval against limit, n, base value, verdict."""

from collections.abc import Sequence

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, Threshold, Verdict
from safediff.report.figures import interval_svg
from safediff.report.markup import Html, el, join
from safediff.report.opening import badge
from safediff.report.scales import check_domain
from safediff.report.wording import KIND_QUESTIONS, bounds_text, limit_text, title_of

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


def checks_section(reports: Sequence[GateReport]) -> Html:
    """All checks, grouped by the question they answer."""
    subjects = len(reports) > 1
    groups = []
    for kind, question in KIND_QUESTIONS.items():
        ids = dict.fromkeys(r.id for report in reports for r in report.results if r.kind == kind)
        bodies = [_check(_lanes(reports, check), subjects) for check in ids]
        if bodies:
            groups.append(
                el("table", el("caption", question), _headings(subjects), *bodies, class_="checks")
            )
    return el("section", el("h2", "Checks"), _legend(), *groups, id="checks")


def _lanes(reports: Sequence[GateReport], check: str) -> list[Lane]:
    return [(report.subject, r) for report in reports for r in report.results if r.id == check]


def _headings(subjects: bool) -> Html:
    names = ["Check", *(["Subject"] if subjects else []), "Interval against its limit"]
    names += ["Measured", "n", "Base", "Verdict"]
    return el("thead", el("tr", *(el("th", name, scope="col") for name in names)))


def _check(lanes: Sequence[Lane], subjects: bool) -> Html:
    first = lanes[0][1]
    rows = [_row(lanes, i, subjects) for i in range(len(lanes))]
    return el(
        "tbody",
        *rows,
        el("tr", el("td", *_notes(lanes, subjects), colspan=7 if subjects else 6), class_="notes"),
        data_check=first.id,
        class_="gating" if first.gating else "information",
    )


def _row(lanes: Sequence[Lane], index: int, subjects: bool) -> Html:
    subject, result = lanes[index]
    first, last = index == 0, index == len(lanes) - 1
    domain = check_domain([r for _, r in lanes])
    cells = [_name(result, len(lanes))] if first else []
    if subjects:
        cells.append(el("td", subject, class_="who"))
    cells += [
        el("td", interval_svg(result, domain, first=first, last=last), class_="figure"),
        el(
            "td",
            el("b", show(result.estimate)),
            el("small", bounds_text(result) or "no interval"),
            class_="measured",
        ),
        el("td", f"{result.num_samples:,}", class_="number", data_label="n"),
        el("td", show(result.base_value), class_="number", data_label="base"),
        el("td", badge(result.verdict), class_="verdict"),
    ]
    return el("tr", *cells)


def _name(result: CheckResult, num_lanes: int) -> Html:
    line = f", policy line {result.policy_line}" if result.policy_line else ""
    bound = "value" if result.threshold.bound == "value" else f"{result.threshold.bound} bound"
    bound = "both bounds" if result.threshold.bound == "both" else bound
    return el(
        "th",
        el("b", title_of(result)),
        el("small", result.metric if result.kind != "quality" else "base against erased"),
        el("small", f"{bound} {limit_text(result.threshold)}{line}")
        if result.gating
        else el("small", "for information, no limit of its own"),
        scope="rowgroup",
        rowspan=num_lanes,
        class_="name",
    )


def _notes(lanes: Sequence[Lane], subjects: bool) -> list[Html]:
    """Messages that are no PASS in the open, everything else behind a click."""
    found = [
        el("p", el("b", f"{subject}: ") if subjects else "", result.message, class_="message")
        for subject, result in lanes
        if result.verdict is not Verdict.PASS
    ]
    details = (
        join(
            el("p", el("b", f"{subject}: ") if subjects else "", result.message),
            _numbers(result),
        )
        for subject, result in lanes
    )
    return [
        *found,
        el("details", el("summary", "How it was measured ", el("code", lanes[0][1].id)), *details),
    ]


def _numbers(result: CheckResult) -> Html:
    facts = {
        "interval": result.interval,
        "confidence": show(result.confidence),
        "lower": show(result.lower),
        "upper": show(result.upper),
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
        "not enough. The diamond is the base model, where it has the same unit. Each bound is "
        "one-sided at its stated confidence."
    )
    return el("div", figure, el("p", text), class_="legend")
