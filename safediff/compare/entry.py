"""What one row of a comparison holds, and the paired test between two rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from scipy.stats import binomtest

from safediff.gate.comparing import holm
from safediff.gate.verdict import CheckResult

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number of the gate."""

    estimate: float | None
    lower: float | None
    upper: float | None
    n: int
    std: float | None = None
    """Standard deviation over n pictures, for KID over n subsets; None of rates."""
    base: float | None = None
    """The base's own value, where the estimate is a change of it (CLIP)."""

    @staticmethod
    def of(result: CheckResult) -> "Measured":
        """Estimate, one-sided bounds and n of a check."""
        return Measured(
            estimate=result.estimate,
            lower=result.lower,
            upper=result.upper,
            n=result.num_samples,
            std=result.details.get("std"),
            base=result.details.get("base_mean"),
        )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a row was run with, for whoever runs it again."""

    method: str | None = None
    """None where nothing is erased."""
    preset: str | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)
    """All of the eraser's settings: the preset with the policy's and the row's options."""
    seed: int | None = None
    """Of training."""
    role: str | None = None
    """teacher or student."""
    guard: str | None = None
    measure_seconds: float = 0.0
    """Of drawing, judging and attacking; for the base, what the judge and the attacks need of it
    included."""
    resumed: bool = False
    """Erasing or measuring was interrupted: its seconds are those since."""
    threads: int = 0
    """Of the processor, while measuring."""
    erase_threads: int | None = None
    """While erasing."""
    jobs: int | None = None
    """Runs that were distilled at the same time, beside the drawing of other rows; None: it was
    erased with nothing beside it."""
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Versions, device and day of the run that measured the row."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One system, measured."""

    id: str
    title: str
    checks: Mapping[str, Measured]
    """By check id: ``erasure/all``, ``retention/...``, ``quality/fid``, ..."""
    verdict: str
    """The policy's own verdict on this row."""
    hits: tuple[bool, ...]
    """Erasure prompts in order: whether the concept was seen."""
    erase_seconds: float
    erase_passes: int
    """UNet sample passes; a forward and backward counts three."""
    passes_per_step: int
    """UNet passes of one picture and step; plain guidance has 2, distilled guidance 1."""
    setup: Setup = Setup()

    def to_json(self) -> Json:
        """Plain data; what the row was run with stands beside its numbers."""
        data: Json = json.loads(json.dumps(asdict(self)))
        data |= data.pop("setup")
        return data


class Paired(NamedTuple):
    """Two rows on the same prompts and latents."""

    only_other: int
    """Prompts on which only the other row shows the concept."""
    only_reference: int
    p_value: float
    """Exact McNemar test, two-sided, adjusted over all rows (Holm)."""


def paired_tests(reference: Entry, others: Sequence[Entry]) -> dict[str, Paired]:
    """McNemar (1947, Psychometrika 12:153), exact: discordant prompts against a fair coin.

    Raises:
        ValueError: a row was measured on other prompts.
    """
    counts = {}
    for other in others:
        pairs = list(zip(other.hits, reference.hits, strict=True))
        counts[other.id] = (pairs.count((True, False)), pairs.count((False, True)))
    raw = [float(binomtest(a, a + b).pvalue) if a + b else 1.0 for a, b in counts.values()]
    adjusted = holm(raw)
    return {id: Paired(*counts[id], p) for id, p in zip(counts, adjusted, strict=True)}
