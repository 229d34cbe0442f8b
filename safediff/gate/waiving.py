"""Waivers: a miss that somebody accepts until a day is WAIVED, and afterwards it is a failure.

Applied after everything else is decided, so that a waiver hides nothing from another check. What
could not be decided stays INCONCLUSIVE: nobody can accept what nobody knows.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from fnmatch import fnmatchcase

from safediff.gate.verdict import CheckResult, Verdict
from safediff.policy.plan import WaiverPlan
from safediff.policy.waivers import PREMISES

WAIVED_DETAILS = ("waived", "waiver_reason", "waiver_owner", "waiver_expires")


def apply_waivers(
    results: Sequence[CheckResult], waivers: Sequence[WaiverPlan], today: date
) -> tuple[CheckResult, ...]:
    """Turn each FAIL or WARN that a waiver names into WAIVED, or into FAIL where it expired.

    Of several waivers for one check, the one that lasts longest counts.

    Args:
        results: finished and held against each other (``cross_check``).
        waivers: of the plan.
        today: UTC; a waiver holds through its last day.
    """
    return tuple(_settle(result, waivers, today) for result in results)


def unwaived(result: CheckResult) -> CheckResult:
    """The result as it was before a waiver, but for its message."""
    if "waived" not in result.details:
        return result
    details = {k: v for k, v in result.details.items() if k not in WAIVED_DETAILS}
    return replace(result, verdict=Verdict(result.details["waived"]), details=details)


def _settle(result: CheckResult, waivers: Sequence[WaiverPlan], today: date) -> CheckResult:
    found = [w for w in waivers if fnmatchcase(result.id, w.check)]
    missed = result.verdict in (Verdict.FAIL, Verdict.WARN)
    if not found or not missed or result.kind in PREMISES:
        return result
    waiver = max(found, key=lambda w: w.expires)
    expired = today > date.fromisoformat(waiver.expires)
    head = (
        f"The waiver of {waiver.owner} expired on {waiver.expires}"
        if expired
        else f"Waived by {waiver.owner} until {waiver.expires}: {waiver.reason}"
    )
    return replace(
        result,
        verdict=Verdict.FAIL if expired else Verdict.WAIVED,
        message=f"{head.rstrip('.')}. {result.message}",
        details={
            **result.details,
            "waived": result.verdict.value,
            "waiver_reason": waiver.reason,
            "waiver_owner": waiver.owner,
            "waiver_expires": waiver.expires,
        },
    )
