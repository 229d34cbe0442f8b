"""Reads back what a run left: its folder, the verdict of one subject, or a verdict document."""

import json
from pathlib import Path

from safediff.errors import UsageError
from safediff.gate.verdict import GateReport, load_report
from safediff.report.json_report import KIND, reports_of

NEXT = "give a folder of safediff erase or verify, or a JSON file of safediff verify -o"


def load_reports(path: Path) -> list[GateReport]:
    """The reports of a run folder or of a verdict file; those that decide come first.

    Raises:
        UsageError: ``path`` is neither, or does not follow from its own results.
    """
    if path.is_dir():
        return _load_run(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})", NEXT) from error
    except ValueError as error:
        raise UsageError(f"{path}: is no JSON ({error})", NEXT) from error
    if not isinstance(data, dict) or "schema_version" not in data:
        raise UsageError(f"{path}: is no verdict", NEXT)
    return reports_of(data) if data.get("kind") == KIND else [GateReport.from_json(data)]


def _load_run(folder: Path) -> list[GateReport]:
    files = sorted(folder.glob("verdict.*.json"))
    if not files:
        raise UsageError(
            f"{folder}: holds no verdict", "run safediff erase or safediff verify first"
        )
    reports = [load_report(file) for file in files]
    return sorted(reports, key=lambda r: (not r.decides, "engine" in r.model_sha256, r.subject))
