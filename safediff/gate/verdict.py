"""Verdicts, check results and the report of a gate run.

The verdict of a report is derived once, by ``overall``; text, JSON and exit code follow from it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from safediff.errors import UsageError
from safediff.whole_file import write_whole

Json = dict[str, Any]

SCHEMA_VERSION = 1

Kind = Literal[
    "calibration",
    "base",
    "collapse",
    "erasure",
    "robustness",
    "retention",
    "quality",
    "parity",
    "baseline",
]


class Verdict(StrEnum):
    """What a check or a whole report says."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"

    @property
    def exit_code(self) -> int:
        """Exit code of the command line: 1 for FAIL, 3 for INCONCLUSIVE, else 0."""
        return {Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}.get(self, 0)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The limit of a check."""

    op: Literal["<=", ">=", "abs<="]
    value: float
    bound: Literal["upper", "lower", "both", "value"]
    """Which end of the interval is held against the limit."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One measured claim. Numbers that do not exist (no samples, not a number) are None."""

    id: str
    """Kind and name, unique in a report: ``erasure/all``."""
    kind: Kind
    concept: str
    metric: str
    estimate: float | None
    lower: float | None
    upper: float | None
    confidence: float | None
    interval: str
    """Name of the interval; lower and upper are one-sided bounds, each at ``confidence``."""
    num_samples: int
    threshold: Threshold
    policy_line: int | None
    base_value: float | None
    """What the base model shows: its own rate; None for distances from it."""
    verdict: Verdict
    message: str
    """One sentence: what was measured, what was expected, and what would settle it."""
    details: Json = field(default_factory=dict)
    gating: bool = True
    """False: a row for information; it can warn but it is no claim of its own."""


def overall(results: Sequence[CheckResult]) -> Verdict:
    """FAIL outranks INCONCLUSIVE outranks WARN outranks PASS; a waived check counts as a warning.

    Without a gating result nothing was shown: INCONCLUSIVE.
    """
    if not any(result.gating for result in results):
        return Verdict.INCONCLUSIVE
    return _worst({result.verdict for result in results})


def _worst(found: Set[Verdict]) -> Verdict:
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if verdict in found:
            return verdict
    return Verdict.WARN if found & {Verdict.WARN, Verdict.WAIVED} else Verdict.PASS


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """Everything that the gate found about one subject (a set of weights or an engine)."""

    subject: str
    """``teacher``, ``student``, ``onnx engine``, ..."""
    results: tuple[CheckResult, ...]
    policy_name: str
    policy_sha256: str
    plan_sha256: str
    model_sha256: Mapping[str, str]
    """Hash by part, for example ``base``, ``unet``, ``engine``; ``parts``: all but the denoiser."""
    judge: Json
    """Name, weights hash and threshold of the first concept's judge."""
    started: str
    """ISO 8601, UTC."""
    finished: str
    num_images: int
    environment: Mapping[str, str]
    """Versions, commit, device."""
    judges: tuple[Json, ...] = ()
    """Likewise of every judge, each with the ids of the checks whose pictures it looked at."""
    decides: bool = True
    """False: measured for comparison, not what is released."""
    verdict: Verdict = field(init=False)

    def __post_init__(self) -> None:
        """Derive the verdict, here and nowhere else."""
        ids = [result.id for result in self.results]
        if len(set(ids)) != len(ids):
            raise ValueError(f"check ids must be unique, got {ids}")
        object.__setattr__(self, "verdict", overall(self.results))

    @property
    def exit_code(self) -> int:
        """Exit code that this report calls for."""
        return self.verdict.exit_code

    @property
    def counts(self) -> dict[Verdict, int]:
        """Number of results per verdict, every verdict present.

        Rows for information count where they do not pass, since the verdict follows from them too.
        """
        found = (r for r in self.results if r.gating or r.verdict is not Verdict.PASS)
        counts = Counter(result.verdict for result in found)
        return {verdict: counts[verdict] for verdict in Verdict}

    def to_json(self) -> Json:
        """Plain data with ``schema_version``."""
        return {"schema_version": SCHEMA_VERSION, **json.loads(json.dumps(asdict(self)))}

    def dumps(self) -> str:
        """JSON text: keys sorted, same report, same bytes.

        Raises:
            ValueError: ``details`` or ``judge`` hold a number that is not finite.
        """
        return json.dumps(self.to_json(), sort_keys=True, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, data: Json) -> "GateReport":
        """Read what ``to_json`` wrote.

        Raises:
            UsageError: another schema version, missing fields, or a verdict that does not follow
                from the results.
        """
        if data.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(
                f"verdict file has schema_version {data.get('schema_version')!r}, "
                f"expected {SCHEMA_VERSION}",
                next_step="run the verification again with this version of safediff",
            )
        try:
            stored = Verdict(data["verdict"])
            fields = {k: v for k, v in data.items() if k not in ("schema_version", "verdict")}
            fields["judges"] = tuple(data.get("judges", ()))
            report = cls(**{**fields, "results": tuple(map(_result, data["results"]))})
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"verdict file does not match its schema: {error!r}",
                next_step="run the verification again",
            ) from error
        if report.verdict is not stored:
            raise UsageError(
                f"verdict file says {stored.value!r}, its results say {report.verdict.value!r}",
                next_step="do not trust this file; run the verification again",
            )
        return report


def combined(reports: Sequence[GateReport]) -> Verdict:
    """One verdict over all reports that decide; without one, INCONCLUSIVE."""
    found = {report.verdict for report in reports if report.decides}
    return _worst(found) if found else Verdict.INCONCLUSIVE


def save_report(report: GateReport, path: Path) -> None:
    """Write a report as JSON, whole or not at all.

    Raises:
        Inconclusive: the file can't be written.
    """
    write_whole(path, report.dumps(), "the verdict")


def load_report(path: Path) -> GateReport:
    """Read a report that ``save_report`` wrote.

    Raises:
        UsageError: the file is missing, is no JSON, or is not a valid report.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: not a readable verdict file ({error})", next_step="run safediff verify"
        ) from error
    return GateReport.from_json(data)


def _result(data: Json) -> CheckResult:
    threshold = Threshold(**data["threshold"])
    return CheckResult(**{**data, "threshold": threshold, "verdict": Verdict(data["verdict"])})
