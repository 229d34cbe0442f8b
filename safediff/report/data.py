"""What an HTML report is made of: numbers, texts and finished thumbnails."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from safediff.gate.verdict import GateReport

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Point = tuple[float, float]
GridRow = tuple[str, tuple[bytes, ...]]
"""Caption (the prompt and its seed) and one PNG per column."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One chart."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Point, ...]]
    """By name, in order of x."""

    def __post_init__(self) -> None:
        """Refuse what can't be drawn.

        Raises:
            ValueError: no series, a series without points, or a number that is not finite.
        """
        if not self.series or not all(self.series.values()):
            raise ValueError(f"curve {self.title!r} has no points")
        if not all(isfinite(v) for points in self.series.values() for p in points for v in p):
            raise ValueError(f"curve {self.title!r} has points that are not finite numbers")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Pictures of several models for the same prompts and seeds."""

    title: str
    note: str
    """How the rows were selected."""
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]

    def __post_init__(self) -> None:
        """Refuse rows that do not fit.

        Raises:
            ValueError: a row without exactly one PNG per column.
        """
        for caption, pictures in self.rows:
            if len(pictures) != len(self.columns):
                raise ValueError(
                    f"grid {self.title!r}, row {caption!r}: {len(pictures)} pictures, "
                    f"expected {len(self.columns)}"
                )
            if not all(picture.startswith(PNG_SIGNATURE) for picture in pictures):
                raise ValueError(f"grid {self.title!r}, row {caption!r}: not a PNG")


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that one HTML report shows."""

    reports: tuple[GateReport, ...]
    """One per subject, all of the same plan."""
    curves: tuple[Curve, ...] = ()
    grids: tuple[Grid, ...] = ()
    limitations: tuple[str, ...] = ()
    """What was not tested, in sentences."""
    training: Mapping[str, str] = field(default_factory=dict)
    """Method, preset, steps, seconds, ... as they should be read."""

    def __post_init__(self) -> None:
        """Refuse reports that must not stand side by side.

        Raises:
            ValueError: no report, or reports of different policies or plans.
        """
        if not self.reports:
            raise ValueError("no gate report to show")
        plans = {(report.policy_sha256, report.plan_sha256) for report in self.reports}
        if len(plans) > 1:
            raise ValueError("the gate reports belong to different policies or plans")
