"""Waivers: which misses somebody accepts, and until when."""

from collections.abc import Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase

from safediff.policy.desk import Desk
from safediff.policy.plan import VerifyPlan, WaiverPlan
from safediff.policy.problems import Loc, did_you_mean

PREMISES = ("calibration", "base", "collapse")
"""Kinds of checks without which no other means anything, so nobody can accept that they fail."""

_ENGINE = ("parity/onnx engine", "parity/edit")


def resolve_waivers(
    desk: Desk, concepts: Sequence[str], verify: VerifyPlan
) -> tuple[WaiverPlan, ...]:
    """Every waiver; one that no check can ever use is refused, and so is an impossible day."""
    known = list(_waivable(desk, concepts, verify))
    waivers = []
    for index, entry in enumerate(desk.policy.waivers):
        loc: Loc = ("waivers", index)
        desk.check([entry.reason], (*loc, "reason"))
        desk.check([entry.owner], (*loc, "owner"))
        _check_day(desk, entry.expires, (*loc, "expires"))
        _check_pattern(desk, entry.check, known, (*loc, "check"))
        line = desk.source.line((*loc, "check"))
        waivers.append(WaiverPlan(**entry.model_dump(), line=line))
    return tuple(waivers)


def _waivable(desk: Desk, concepts: Sequence[str], verify: VerifyPlan) -> Iterator[str]:
    """Ids of the checks that the plan will emit, premises left out."""
    if verify.erasure.over == "all":
        yield "erasure/all"
    yield from (f"erasure/{name}" for name in concepts)
    yield from (f"retention/{check.name}" for check in verify.retention)
    yield from (f"quality/{check.metric}" for check in verify.quality)
    yield from (f"robustness/{check.name}" for check in verify.attacks)
    if "onnx" in desk.policy.export.targets:
        yield from _ENGINE


def _check_day(desk: Desk, day: str, loc: Loc) -> None:
    try:
        date.fromisoformat(day)
    except ValueError:
        desk.source.refuse(loc, f"there is no day {day}")


def _check_pattern(desk: Desk, pattern: str, known: Sequence[str], loc: Loc) -> None:
    if pattern.partition("/")[0] in PREMISES:
        message = f"'{pattern}' cannot be waived: without it no other check means anything"
        desk.source.refuse(loc, message)
    elif not any(fnmatchcase(check, pattern) for check in known):
        desk.source.refuse(loc, f"no check is called '{pattern}'{did_you_mean(pattern, known)}")
