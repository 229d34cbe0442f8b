"""Two runs, check by check: what changed, and whether the change is beyond noise.

A change b - a is tested with the intervals that the two results already have, by the method of
variance estimates recovery (MOVER; Zou and Donner, 2008, Statistics in Medicine 27:1693). A
one-sided bound at confidence c lies z_c standard errors from its estimate; of each result the bound
that faces the other run is taken, so that for b > a

    z = (b - a) / sqrt(((u_a - a) / z_c)^2 + ((b - l_b) / z_c)^2)

and for b < a with the opposite bounds. That keeps the asymmetry of exact intervals: no hit at all
still has an upper bound above 0. The two-sided p-values are adjusted over all tested checks (Holm,
1979, Scandinavian Journal of Statistics 6:65). The runs count as independent; where both drew the
same prompts and seeds, that errs on the cautious side. So do bounds that hold at every stop, which
are wider than the test takes them for.

Of a change that is limited on both sides (``abs<=``) the size is tested, as if a negative one were
mirrored at 0: to be as far on the other side is neither better nor worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import erfc, hypot, inf, sqrt
from statistics import NormalDist
from typing import Literal

from safediff.errors import UsageError
from safediff.gate.verdict import CheckResult, GateReport

LEVEL = 0.05
"""An adjusted p-value at or below this is beyond noise."""

Says = Literal["better", "worse", "within noise", "not tested", "only in A", "only in B"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One check in both runs."""

    id: str
    before: CheckResult | None
    after: CheckResult | None
    difference: float | None
    """After minus before; None where one of the two has no estimate."""
    p_value: float | None
    """Adjusted over all tested checks; None where the change was not tested."""
    says: Says


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One subject in both runs; they may call it by different names."""

    before: GateReport
    after: GateReport
    changes: tuple[Change, ...]


def compare(before: Sequence[GateReport], after: Sequence[GateReport]) -> list[Comparison]:
    """Compare what decides in two runs.

    Raises:
        UsageError: the runs have no subject in common.
    """
    matched = pairs(before, after)
    rows = [(i, *row) for i, (a, b) in enumerate(matched) for row in _rows(a, b)]
    raw = [p_value(old, new) for _, old, new in rows]
    adjusted = iter(holm([p for p in raw if p is not None]))
    changes = [
        (i, _change(old, new, None if p is None else next(adjusted)))
        for (i, old, new), p in zip(rows, raw, strict=True)
    ]
    return [
        Comparison(before=a, after=b, changes=tuple(c for at, c in changes if at == i))
        for i, (a, b) in enumerate(matched)
    ]


def p_value(old: CheckResult | None, new: CheckResult | None) -> float | None:
    """Two-sided p-value of no change, or of none in size; None where nothing can be tested.

    Rows for information are not tested: each is a part of a check that is. Neither are numbers
    without an interval (FID, null-prompt drift, parity).
    """
    if old is None or new is None:
        return None
    if new.threshold.op == "abs<=":
        old, new = _size(old), _size(new)
    if old.estimate is None or new.estimate is None:
        return None
    if not (old.gating and new.gating) or _exact(old) or _exact(new):
        return None
    change = new.estimate - old.estimate
    upwards = change > 0
    error = hypot(_standard_error(old, upper=upwards), _standard_error(new, upper=not upwards))
    if error == 0:
        return 1.0 if change == 0 else None
    return erfc(abs(change) / error / sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order: held against one level, few are false together."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def pairs(
    before: Sequence[GateReport], after: Sequence[GateReport]
) -> list[tuple[GateReport, GateReport]]:
    """Subjects of one name; else the only weights left on either side, the only engines left.

    ``erase`` calls the weights ``teacher``, ``verify`` calls them ``model``.

    Raises:
        UsageError: there is no such pair.
    """
    old = {report.subject: report for report in before if report.decides}
    new = {report.subject: report for report in after if report.decides}
    found = [(old[name], new[name]) for name in old if name in new]
    for engine in (False, True):
        left = [_left(old, new, engine), _left(new, old, engine)]
        if all(len(reports) == 1 for reports in left):
            found.append((left[0][0], left[1][0]))
    if not found:
        raise UsageError(
            f"the runs have no subject in common: A measured {', '.join(old) or 'nothing'}; "
            f"B measured {', '.join(new) or 'nothing'}",
            "give two runs of the same kind, or the verdict files of the two subjects",
        )
    return found


def _left(
    these: Mapping[str, GateReport], others: Mapping[str, GateReport], engine: bool
) -> list[GateReport]:
    """Reports on weights, or on engines, whose name the other run lacks."""
    return [
        report
        for name, report in these.items()
        if name not in others and ("engine" in report.model_sha256) == engine
    ]


def _rows(
    before: GateReport, after: GateReport
) -> list[tuple[CheckResult | None, CheckResult | None]]:
    old, new = ({result.id: result for result in report.results} for report in (before, after))
    return [(old.get(id), new.get(id)) for id in dict.fromkeys([*old, *new])]


def _size(result: CheckResult) -> CheckResult:
    """The result, mirrored at 0 if it is negative."""
    if result.estimate is None or result.estimate >= 0:
        return result
    lower, upper = (None if b is None else -b for b in (result.upper, result.lower))
    return replace(result, estimate=-result.estimate, lower=lower, upper=upper)


def _exact(result: CheckResult) -> bool:
    return result.lower == result.upper == result.estimate


def _standard_error(result: CheckResult, *, upper: bool) -> float:
    """Of the side that faces the other run; infinite where the bound is."""
    bound = result.upper if upper else result.lower
    if bound is None or result.estimate is None or result.confidence is None:
        return inf
    return abs(bound - result.estimate) / NormalDist().inv_cdf(result.confidence)


def _change(old: CheckResult | None, new: CheckResult | None, p: float | None) -> Change:
    either = new or old
    assert either is not None
    if old is None or new is None or old.estimate is None or new.estimate is None:
        difference, says = None, _absent(old, new)
    else:
        difference = new.estimate - old.estimate
        says = _says(old.estimate, new.estimate, p, new.threshold.op)
    return Change(id=either.id, before=old, after=new, difference=difference, p_value=p, says=says)


def _absent(old: CheckResult | None, new: CheckResult | None) -> Says:
    return "only in B" if old is None else "only in A" if new is None else "not tested"


def _says(old: float, new: float, p: float | None, op: str) -> Says:
    if p is None:
        return "not tested"
    if p > LEVEL:
        return "within noise"
    if op == "abs<=":
        old, new = abs(old), abs(new)
    return "better" if (new > old) == (op == ">=") else "worse"
