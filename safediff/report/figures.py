"""Inline SVG, drawn by hand: an interval held against its limit."""

from safediff.gate.verdict import CheckResult
from safediff.report.markup import Html, el, join
from safediff.report.scales import Scale
from safediff.report.wording import limit_text, number_text

WIDTH, MARGIN, LANE = 320.0, 14.0, 26.0
MIDDLE = LANE / 2

BASE_KINDS = ("erasure", "robustness", "quality")
"""Where the base model's value is in the unit of the axis, and not what is measured itself."""


def interval_svg(
    result: CheckResult, domain: tuple[float, float], *, first: bool = True, last: bool = True
) -> Html:
    """Draw a result's interval on an axis, with its limit and the side that is allowed.

    Labels stand above and below the box of the drawing, so that lanes line up with table rows.

    Args:
        result: what to draw.
        domain: ends of the axis, from ``check_domain``, so that subjects can be compared.
        first: top lane of its check: the limit is labelled.
        last: bottom lane: the ends of the axis are labelled.
    """
    scale = Scale(*domain, MARGIN, WIDTH - MARGIN)
    parts = [_allowed(result, scale), _limits(result, scale)]
    if first:
        parts.append(_limit_label(result, scale))
    if last:
        parts += [
            label(MARGIN, LANE + 12, f"{domain[0]:.4g}", "start"),
            label(WIDTH - MARGIN, LANE + 12, f"{domain[1]:.4g}", "end"),
        ]
    parts += [_base_mark(result, scale), _interval(result, scale)]
    return el(
        "svg",
        *parts,
        class_=f"interval v-{result.verdict.value}",
        viewBox=f"0 0 {WIDTH:g} {LANE:g}",
        role="img",
        aria_label=describe(result),
    )


def describe(result: CheckResult) -> str:
    """The drawing in words."""
    limit, verdict = limit_text(result.threshold), result.verdict.value
    if result.estimate is None:
        return f"not measured, limit {limit}, {verdict}"
    estimate, lower, upper = (number_text(result, n) for n in ("estimate", "lower", "upper"))
    ends = f"interval {lower} to {upper}"
    return f"estimate {estimate}, {ends}, limit {limit}, {verdict}"


def label(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Html:
    """A piece of text in a drawing."""
    return el("text", text, class_=f"label {kind}", x=x, y=y, text_anchor=anchor)


def _ends(result: CheckResult, scale: Scale) -> tuple[float, float]:
    """Coordinates between which a value is allowed."""
    op, limit = result.threshold.op, result.threshold.value
    if op == "<=":
        return scale.start, scale(limit)
    return (scale(limit), scale.end) if op == ">=" else (scale(-limit), scale(limit))


def _allowed(result: CheckResult, scale: Scale) -> Html:
    left, right = _ends(result, scale)
    whole = scale.end - scale.start
    return join(
        el("rect", class_="lane", x=scale.start, width=whole, y=0, height=LANE),
        el("rect", class_="allowed", x=left, width=right - left, y=0, height=LANE),
    )


def _limits(result: CheckResult, scale: Scale) -> Html:
    ends = [x for x in _ends(result, scale) if scale.start < x < scale.end]
    return join(*(el("line", class_="limit", x1=x, x2=x, y1=-2, y2=LANE) for x in ends))


def _limit_label(result: CheckResult, scale: Scale) -> Html:
    left, right = _ends(result, scale)
    x = {"<=": right, ">=": left}.get(result.threshold.op, (left + right) / 2)
    anchor = "start" if x < 40 else "end" if x > WIDTH - 40 else "middle"
    return label(x, -6.0, limit_text(result.threshold), anchor, "limit")


def _base_mark(result: CheckResult, scale: Scale) -> Html:
    """A diamond at the base model's value; outside the lane where it lies beyond the axis."""
    value, reach = result.base_value, 4.5
    if result.kind not in BASE_KINDS or value is None:
        return Html("")
    x = scale(value)
    if not scale.holds(value):
        x += 8.0 if value > scale.high else -8.0
    corners = ((x, MIDDLE - reach), (x + reach, MIDDLE), (x, MIDDLE + reach), (x - reach, MIDDLE))
    return el("polygon", class_="base", points=" ".join(f"{a:.2f},{b:g}" for a, b in corners))


def _interval(result: CheckResult, scale: Scale) -> Html:
    if result.estimate is None:
        return label(WIDTH / 2, MIDDLE + 3.5, "not measured", "middle")
    lower = scale.low if result.lower is None else result.lower
    upper = scale.high if result.upper is None else result.upper
    parts = [el("line", class_="span", x1=scale(lower), x2=scale(upper), y1=MIDDLE, y2=MIDDLE)]
    if result.threshold.bound != "value":
        for side, value in (("lower", result.lower), ("upper", result.upper)):
            if value is not None and scale.holds(value):
                decides = result.threshold.bound in (side, "both")
                parts.append(_cap(scale(value), decides))
            else:
                parts.append(_arrow(scale, side))
    if scale.holds(result.estimate):
        parts.append(el("circle", class_="dot", cx=scale(result.estimate), cy=MIDDLE, r=4.2))
    elif result.threshold.bound == "value":
        parts.append(_arrow(scale, "upper" if result.estimate > scale.high else "lower"))
    return join(*parts)


def _cap(x: float, decides: bool) -> Html:
    half = 8.0 if decides else 4.5
    name = "cap decides" if decides else "cap"
    return el("line", class_=name, x1=x, x2=x, y1=MIDDLE - half, y2=MIDDLE + half)


def _arrow(scale: Scale, side: str) -> Html:
    """The value lies beyond this end of the axis."""
    x, back = (scale.start, 7) if side == "lower" else (scale.end, -7)
    points = f"{x + back:g},{MIDDLE - 5:g} {x:g},{MIDDLE:g} {x + back:g},{MIDDLE + 5:g}"
    return el("polyline", class_="arrow", points=points)
