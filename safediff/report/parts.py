"""Small pieces of HTML that several sections use."""

from collections.abc import Mapping
from html import escape

from safediff.gate.verdict import CheckResult, Verdict
from safediff.report.words import label

SHAPES = {
    "pass": ('<circle class="shape" cx="12" cy="12" r="11"/>', "M7 12.5l3.4 3.4L17 8.8"),
    "fail": (
        '<rect class="shape" x="1.5" y="1.5" width="21" height="21" rx="4"/>',
        "M8 8l8 8M16 8l-8 8",
    ),
    "warn": ('<path class="shape" d="M12 1.2L23.4 21.6H.6z"/>', "M12 9v5.2M12 17.8v.1"),
    "inconclusive": (
        '<path class="shape" d="M12 .2L23.8 12 12 23.8.2 12z"/>',
        "M9.3 9.8a2.7 2.5 0 1 1 3.9 2.3c-.8.4-1.2.9-1.2 1.8M12 17v.1",
    ),
    "waived": (
        '<circle class="shape" cx="12" cy="12" r="11"/>',
        "M6.5 13.5c1.8-3.4 3.7-3.4 5.5-1.5s3.7 1.9 5.5-1.5",
    ),
    "info": ('<circle class="shape" cx="12" cy="12" r="4"/>', ""),
}
"""A different shape for each verdict, so that none is told by its colour alone."""


def icon(name: str) -> str:
    """The mark of a verdict (or ``info``)."""
    shape, glyph = SHAPES[name]
    path = f'<path class="glyph" d="{glyph}"/>' if glyph else ""
    return f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">{shape}{path}</svg>'


def pill(verdict: Verdict) -> str:
    """A verdict as mark and word."""
    return f'<span class="pill v-{verdict.value}">{icon(verdict.value)}{verdict.name}</span>'


def result_pill(result: CheckResult) -> str:
    """A result's verdict; rows for information that pass say INFO."""
    name = label(result)
    return f'<span class="pill v-{name.lower()}">{icon(name.lower())}{name}</span>'


def facts(values: Mapping[str, str]) -> str:
    """A list of names and values; the values are HTML already."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{v}</dd></div>" for k, v in values.items())
    return f'<dl class="facts">{items}</dl>'


def digest(sha256: str) -> str:
    """A hash, shortened; the whole of it in the title and in the appendix."""
    return f'<code title="{escape(sha256)}">{escape(sha256[:16])}</code>'
