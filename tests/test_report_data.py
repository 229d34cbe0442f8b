"""What cannot be shown is refused before it is drawn."""

import pytest
from gate_examples import make_report
from report_examples import make_png, make_results

from safediff.report.data import Curve, Grid, ReportData


@pytest.mark.parametrize("series", [{}, {"loss": ()}, {"loss": ((0, 1.0),), "other": ()}])
def test_a_curve_needs_points(series: dict) -> None:
    with pytest.raises(ValueError, match="no points"):
        Curve(title="Loss", x_label="step", y_label="loss", series=series)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_curve_needs_finite_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Curve(title="Loss", x_label="step", y_label="loss", series={"loss": ((0, 1.0), (1, bad))})


def test_a_grid_row_needs_a_picture_per_column() -> None:
    with pytest.raises(ValueError, match="row 'axe': 1 pictures, expected 2"):
        Grid(title="g", note="", columns=("base", "teacher"), rows=(("axe", (make_png(),)),))


def test_a_picture_must_be_a_png() -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        Grid(title="g", note="", columns=("base",), rows=(("axe", (b"<svg onload=alert(1)>",)),))


def test_reports_of_different_plans_do_not_stand_side_by_side() -> None:
    first = make_report(make_results())
    with pytest.raises(ValueError, match="different policies or plans"):
        ReportData(reports=(first, make_report(make_results(), plan_sha256="0" * 64)))
    with pytest.raises(ValueError, match="no gate report"):
        ReportData(reports=())
