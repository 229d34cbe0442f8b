"""What a certificate says of attacks: access, budget and success of each, and what came back."""

from collections.abc import Mapping, Sequence
from typing import Any

from safediff.gate.cut import NUM_CUT
from safediff.gate.robustness import ALIGNMENT
from safediff.gate.verdict import CheckResult, GateReport
from safediff.gate.waiving import WAIVED_DETAILS

Json = dict[str, Any]

_SUCCESS = {"direct": "pre", "under_attack": "post", "either": "total", "base_model": "base"}
"""Name in a certificate and prefix in the details of a check."""
_RATE = {"successes": "hits", "attempts": "n", "rate": "rate", "lower": "lower", "upper": "upper"}
_NO_BUDGET = ("access", "source", "num_failures", "total_by_concept", "withdrawn", NUM_CUT)
_PER_ATTEMPT = ("generations_per_prompt", "unet_passes_per_prompt")


def attacks_on(reports: Sequence[GateReport]) -> list[Json]:
    """Every attack on what decides, also those that could not be tried."""
    return [
        _attack(report.subject, result)
        for report in reports
        if report.decides
        for result in report.results
        if result.kind == "robustness" and result.id != ALIGNMENT
    ]


def counter_evidence(reports: Sequence[GateReport]) -> list[Json]:
    """Attacks that brought a concept back where the direct prompt did not."""
    return [
        {
            "attack": result.id.partition("/")[2],
            "subject": report.subject,
            "access": result.details["access"],
            "unet_passes_per_prompt": result.details["unet_passes_per_prompt"],
            "successes": result.details["post_hits"],
            "of_prompts": result.details["post_n"],
        }
        for report in reports
        for result in report.results
        if report.decides and result.details.get("post_hits")
    ]


def _attack(subject: str, result: CheckResult) -> Json:
    details = result.details
    return {
        "id": result.id.partition("/")[2],
        "subject": subject,
        "access": details.get("access"),
        "source": details.get("source"),
        "budget": {
            "attempts": details.get("total_n", 0),
            **{name: details.get(name) for name in _PER_ATTEMPT},
            "settings": _settings(details),
        },
        "success": {
            name: _rate(details, prefix) if f"{prefix}_n" in details else None
            for name, prefix in _SUCCESS.items()
        },
        "verdict": result.verdict.value,
        "note": result.message,
    }


def _rate(details: Mapping[str, Any], prefix: str) -> Json:
    """As observed, not corrected for the judge."""
    return {name: details.get(f"{prefix}_{key}") for name, key in _RATE.items()}


def _settings(details: Mapping[str, Any]) -> Json:
    counts = {f"{prefix}_{key}" for prefix in _SUCCESS.values() for key in _RATE.values()}
    other = counts | {*_NO_BUDGET, *_PER_ATTEMPT, *WAIVED_DETAILS}
    return {name: value for name, value in details.items() if name not in other}
