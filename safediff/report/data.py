"""What an HTML report is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from safediff.gate.verdict import GateReport

Curve = list[tuple[float, float]]
"""Points (step, value)."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Pictures side by side: one row per prompt and seed, one column per subject."""

    title: str
    columns: tuple[str, ...]
    """Captions, for example ``base``, ``erased``, ``onnx engine``."""
    rows: tuple[tuple[str, tuple[bytes, ...]], ...]
    """Caption (prompt and seed) and one PNG per column; empty bytes where there is no picture."""
    note: str = ""
    """How the rows were chosen."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page. The same data gives the same bytes."""

    reports: tuple[GateReport, ...]
    """At least one; all of one policy."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """By title, in the order shown."""
    grids: tuple[Grid, ...] = ()
    limitations: tuple[str, ...] = ()
    training: Mapping[str, str] = field(default_factory=dict)
    """Facts about the training by name, in the order shown."""
