"""Made-up reports with every verdict, for the tests of what speaks to CI."""

from dataclasses import replace

from gate_examples import make_report, make_result
from report_examples import make_results

from safediff.gate.verdict import GateReport, Verdict

POLICY = "policies/my demo.yaml"
WAIVER = "Accepted until 2026-12-31 by the safety team: the replacement is being trained."


def all_verdicts() -> tuple[GateReport, ...]:
    """A model with one check of every verdict, its engine that passes, a student that fails."""
    results = [*make_results(Verdict.FAIL)]
    changes = {
        "retention/neighbours": (Verdict.WARN, "ratio is 50%, a bit low:\r\nlow, yes"),
        "retention/everything else": (Verdict.WAIVED, WAIVER),
        "quality/clip": (Verdict.INCONCLUSIVE, "clip could not be measured."),
    }
    for i, result in enumerate(results):
        if result.id in changes:
            verdict, message = changes[result.id]
            results[i] = replace(result, verdict=verdict, message=message)
    return (
        make_report(tuple(results), subject="model"),
        make_report(make_results(), subject="onnx engine", model_sha256={"engine": "f0" * 32}),
        make_report(
            (make_result("erasure/all", Verdict.FAIL, message="Only for comparison."),),
            subject="student",
            decides=False,
        ),
    )


def passing() -> tuple[GateReport, ...]:
    """One subject, all of it passed."""
    return (make_report(make_results(), subject="model"),)


def many_findings(count: int) -> tuple[GateReport, ...]:
    """One subject with a warning first, then ``count - 1`` failures."""
    rows = [
        make_result(f"retention/group {i}", Verdict.FAIL if i else Verdict.WARN)
        for i in range(count)
    ]
    return (make_report(tuple(rows), subject="model"),)
