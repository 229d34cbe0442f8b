"""How a verdict and a hash look in the HTML report."""

from safediff.gate.verdict import CheckResult, Verdict
from safediff.report.markup import Html, el
from safediff.report.wording import says_nothing_alone, short_hash

ROUND = "M12 2a10 10 0 1 0 0 20a10 10 0 1 0 0-20z"

SIGNS = {
    Verdict.PASS: (ROUND, "M7.3 12.4l3.2 3.2l6.3-6.8"),
    Verdict.WARN: ("M12 2.6L22.4 21H1.6z", "M12 9.2v5.4M12 17.4v.3"),
    Verdict.FAIL: ("M8 2h8l6 6v8l-6 6h-8l-6-6v-8z", "M8.3 8.3l7.4 7.4M15.7 8.3l-7.4 7.4"),
    Verdict.INCONCLUSIVE: (
        "M12 1.6L22.4 12L12 22.4L1.6 12z",
        "M9.4 9.8c.3-3 5.2-3 5.2 0c0 1.9-2.6 1.9-2.6 4M12 16.9v.2",
    ),
    Verdict.WAIVED: ("M3 3h18v18h-18z", "M7.5 12h9"),
}
"""Outline and sign; every verdict has its own outline, so that none needs its colour."""


def verdict_svg(verdict: Verdict) -> Html:
    """A verdict's sign."""
    outline, sign = SIGNS[verdict]
    return el(
        "svg",
        el("path", class_="outline", d=outline),
        el("path", class_="sign", d=sign),
        class_="sign-icon",
        viewBox="0 0 24 24",
        aria_hidden="true",
    )


def badge(verdict: Verdict) -> Html:
    """A verdict as sign and word."""
    return el(
        "span", verdict_svg(verdict), verdict.value.upper(), class_=f"badge v-{verdict.value}"
    )


def result_badge(result: CheckResult) -> Html:
    """A result's verdict; a row for information is no pass of its own and does not say so."""
    if says_nothing_alone(result):
        return el("span", "for information", class_="quiet")
    return badge(result.verdict)


def hash_code(sha256: str) -> Html:
    """The first characters of a hash; the whole of it on hover and in the evidence."""
    return el("code", short_hash(sha256), title=sha256)
