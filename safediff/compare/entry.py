"""What one row of a comparison holds, and the paired test between two rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

    @staticmethod
    def of(result: CheckResult) -> "Measured":
        """Estimate, one-sided bounds and n of a check."""
        return Measured(
            estimate=result.estimate,
            lower=result.lower,
            upper=result.upper,
            n=result.num_samples,
        )


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
    """UNet passes of one picture and step; plain guidance has 2."""

    def to_json(self) -> Json:
        """Plain data."""
        data: Json = json.loads(json.dumps(asdict(self)))
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
