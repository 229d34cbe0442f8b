"""The formats of a verdict, by name and by file extension."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from safediff.errors import UsageError
from safediff.gate.verdict import GateReport
from safediff.policy.problems import listed
from safediff.report.github import render_annotations
from safediff.report.json_report import render_json
from safediff.report.junit import render_junit
from safediff.report.markdown import render_markdown
from safediff.report.sarif import render_sarif


class Format(StrEnum):
    """What stdout may show."""

    RICH = "rich"
    JSON = "json"
    JUNIT = "junit"
    SARIF = "sarif"
    MARKDOWN = "markdown"
    GITHUB = "github"


RENDERERS: dict[str, Callable[[Sequence[GateReport], str], str]] = {
    Format.JSON: render_json,
    Format.JUNIT: render_junit,
    Format.SARIF: render_sarif,
    Format.MARKDOWN: lambda reports, _: render_markdown(reports),
    Format.GITHUB: render_annotations,
}
"""From the reports of one policy and its path to text; ``rich`` is drawn by the terminal."""

HTML = "html"
"""A file only: the page of the run folder, copied."""

EXTENSIONS = {
    ".json": Format.JSON,
    ".xml": Format.JUNIT,
    ".sarif": Format.SARIF,
    ".sarif.json": Format.SARIF,
    ".md": Format.MARKDOWN,
    ".html": HTML,
}


def format_of(path: Path) -> str:
    """A key of ``RENDERERS``, or ``HTML``, by the longest extension that is known.

    Raises:
        UsageError: the extension is unknown, or the file's folder does not exist. Said before
            anything is measured, since measuring takes a while.
    """
    for extension in sorted(EXTENSIONS, key=len, reverse=True):
        if path.name.lower().endswith(extension) and path.name.lower() != extension:
            break
    else:
        raise UsageError(f"-o {path}: the format is unknown", f"name it {listed(EXTENSIONS)}")
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"-o {path}: {what}", "name a file in a folder that exists")
    return EXTENSIONS[extension]
