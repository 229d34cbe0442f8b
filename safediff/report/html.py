"""One self-contained HTML file: no network, no inline handlers, same data, same bytes."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from safediff.gate.verdict import combined
from safediff.report.checks import checks_section
from safediff.report.data import ReportData
from safediff.report.evidence import evidence_section
from safediff.report.markup import Html, el, join
from safediff.report.opening import opening
from safediff.report.pictures import pictures_section
from safediff.report.training import training_section
from safediff.whole_file import write_whole


def render_html(data: ReportData) -> str:
    """Render the report. The same data gives the same text."""
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    first, verdict = data.reports[0], combined(data.reports)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{verdict.value.upper()} · {first.policy_name} · verification report"),
        el("style", Html(style)),
    )
    body = el(
        "body",
        opening(data),
        el(
            "main",
            checks_section(data.reports),
            pictures_section(data.grids),
            training_section(data.training, data.curves),
            evidence_section(data.reports),
        ),
        el("footer", "One file. It opens from disk and loads nothing from the network."),
        el("script", Html(script)),
        class_=f"v-{verdict.value}",
    )
    return join(Html("<!doctype html>\n"), el("html", head, body, lang="en"), "\n")


def write_html(path: Path, data: ReportData) -> None:
    """Write the report, whole or not at all.

    Raises:
        Inconclusive: the file can't be written.
    """
    write_whole(path, render_html(data), "the report")


def _asset(name: str) -> str:
    return files("safediff.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Source expression of an inline style or script in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
