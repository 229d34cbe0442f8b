"""Made-up report data for the tests of the reports."""

import io
from typing import Any

from gate_examples import make_report, make_result
from PIL import Image

from safediff.gate.verdict import CheckResult, GateReport, Threshold, Verdict
from safediff.report.data import Curve, Grid, ReportData


def make_png(color: str = "red") -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def make_results(erasure: Verdict = Verdict.PASS) -> tuple[CheckResult, ...]:
    """Results of every kind, two of one kind, and a row for information."""
    ratio = Threshold(op=">=", value=0.8, bound="lower")
    change = Threshold(op="abs<=", value=0.01, bound="both")
    largest = Threshold(op="<=", value=0.001, bound="value")
    kept: dict[str, Any] = {
        "threshold": ratio,
        "metric": "ratio of right pictures",
        "estimate": 0.95,
        "lower": 0.9,
        "upper": 1.02,
    }
    return (
        make_result(
            "calibration/sensitivity",
            Verdict.PASS,
            threshold=ratio,
            estimate=0.99,
            lower=0.98,
            upper=1.0,
            metric="judge sensitivity",
        ),
        make_result(
            "base/all",
            Verdict.PASS,
            threshold=ratio,
            estimate=0.93,
            lower=0.9,
            upper=0.95,
            metric="base rate",
        ),
        make_result("collapse", Verdict.PASS, **kept),
        make_result("erasure/all", erasure),
        make_result("erasure/axe", Verdict.PASS, gating=False),
        make_result("retention/neighbours", Verdict.PASS, **kept),
        make_result("retention/everything else", Verdict.PASS, **kept),
        make_result(
            "quality/clip",
            Verdict.PASS,
            threshold=change,
            metric="clip",
            estimate=0.001,
            lower=-0.002,
            upper=0.004,
            base_value=0.0,
        ),
        make_result(
            "parity/onnx",
            Verdict.PASS,
            threshold=largest,
            interval="none",
            estimate=2e-6,
            lower=2e-6,
            upper=2e-6,
            base_value=None,
        ),
    )


def make_reports() -> tuple[GateReport, ...]:
    """Three subjects that pass; the student is measured for comparison."""
    return tuple(
        make_report(make_results(), subject=subject, decides=subject != "student")
        for subject in ("teacher", "student", "onnx engine")
    )


def make_data(**changes: Any) -> ReportData:
    """A report with everything in it."""
    fields: dict[str, Any] = {
        "reports": make_reports(),
        "curves": (
            Curve(
                title="Drift",
                x_label="step",
                y_label="squared change",
                series={"teacher": ((0, 0.0), (10, 0.02)), "student": ((0, 0.0), (10, 0.03))},
            ),
        ),
        "grids": (
            Grid(
                title="Erased concepts",
                note="The first 2 prompts.",
                columns=("base", "teacher"),
                rows=(
                    ("axe · seed 1", (make_png(), make_png("blue"))),
                    ("dagger · seed 2", (make_png(), make_png("green"))),
                ),
            ),
            Grid(title="Failures", note="All.", columns=("base", "teacher"), rows=()),
        ),
        "limitations": ("Prompts are English only.",),
        "training": {"method": "sdd", "steps": "160"},
    }
    return ReportData(**{**fields, **changes})
