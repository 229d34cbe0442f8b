"""What reports, certificate and limitations say of attacks."""

import io
from dataclasses import replace

import pytest
from gate_examples import make_plan, make_report, make_result
from release_examples import make_evidence
from report_examples import make_data, make_results
from rich.console import Console

from safediff.attack.params import ATTACKS
from safediff.gate.verdict import CheckResult, GateReport, Verdict
from safediff.policy.plan import GuardPlan
from safediff.release.attacked import counter_evidence
from safediff.release.certificate import issue_certificate
from safediff.report.html import render_html
from safediff.report.table import render_table
from safediff.report.wording import title_of
from safediff.workflow.evidence import ATTACKED, NOT_ATTACKED, limitations

DETAILS = {"access": "white-box", "unet_passes_per_prompt": 32, "post_hits": 3, "post_n": 20}


def attacked(verdict: Verdict, name: str = "completion", **changes: object) -> CheckResult:
    fields = {"gating": False, "details": DETAILS, **changes}
    return make_result(f"robustness/{name}", verdict, **fields)


def report(*rows: CheckResult, **changes: object) -> GateReport:
    return make_report((*make_results(), *rows), **changes)


@pytest.mark.parametrize("name", ATTACKS)
def test_titles_fit_into_the_table(name: str) -> None:
    buffer = io.StringIO()
    table = render_table([report(attacked(Verdict.WARN, name))])
    Console(file=buffer, width=100).print(table)
    text = buffer.getvalue()
    assert "…" not in text
    assert "Do they stay away under attack?" in text
    assert f"    {title_of(attacked(Verdict.WARN, name))} " in text


def test_rows_for_information_are_not_said_to_be_parts_of_a_limit() -> None:
    data = make_data(reports=(report(attacked(Verdict.PASS)),))
    html = render_html(data)
    start = html.index("Do they stay away under attack?")
    table = html[start : html.index("</table>", start)]
    assert "the policy sets no limit on these" in table
    assert "holds for all of them together" not in table


def test_limitations_say_whether_attacks_were_run() -> None:
    without = limitations([report()], make_plan())
    run = limitations([report(attacked(Verdict.PASS))], make_plan())
    assert NOT_ATTACKED in without
    assert NOT_ATTACKED not in run
    assert ATTACKED in run
    assert len(without) == len(run) == 3


def test_limitations_begin_with_the_guard() -> None:
    plan = replace(make_plan(), guard=GuardPlan(name="sld-max", texts=("axe",)))
    first, *others = limitations([report()], plan)
    s = plan.verify.sampling
    drawn = f"guard sld-max ({s.num_steps} steps, guidance {s.guidance_scale:g})"
    assert first.startswith(f"Every picture but the base's was drawn behind {drawn}")
    assert tuple(others) == limitations([report()], make_plan())


def test_what_an_attack_brought_back_is_counter_evidence() -> None:
    quiet = attacked(Verdict.PASS, "inpainting", details={**DETAILS, "post_hits": 0})
    absent = attacked(Verdict.WARN, "closed-form", details={"access": "white-box"})
    reports = [
        report(attacked(Verdict.WARN), quiet, absent),
        report(attacked(Verdict.WARN), subject="student", decides=False),
    ]
    assert counter_evidence(reports) == [
        {
            "attack": "completion",
            "subject": "teacher",
            "access": "white-box",
            "unet_passes_per_prompt": 32,
            "successes": 3,
            "of_prompts": 20,
        }
    ]


def test_a_certificate_never_says_that_no_attack_was_run_when_one_was() -> None:
    policy, quiet = make_evidence().policy["sha256"], {**DETAILS, "post_hits": 0}
    for rows, note in (
        ((), "No attack was run"),
        ((attacked(Verdict.PASS, details=quiet),), "No attack that was run brought a concept back"),
    ):
        evidence = make_evidence(reports=(report(*rows, policy_sha256=policy),))
        certificate = issue_certificate(evidence, [])
        assert certificate["counter_evidence_note"].startswith(note)
