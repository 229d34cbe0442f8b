"""Waivers in a policy: what is read, and what is refused before anything is measured."""

from pathlib import Path

import pytest
from policy_examples import findings, plan_of

from safediff.policy.plan import Plan, WaiverPlan

GOOD = "{check: 'retention/*', reason: still training, owner: me, expires: 2026-12-31}"


def with_waivers(*entries: str) -> tuple[str, str]:
    lines = "".join(f"\n  - {entry}" for entry in entries)
    return "keep:", f"waivers:{lines}\nkeep:"


def test_none_by_default_and_hashes_stay(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert plan.waivers == ()
    assert "waivers" not in plan.to_json()


def test_a_waiver_is_read_and_is_part_of_the_plan(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, with_waivers(GOOD))
    assert plan.waivers == (
        WaiverPlan(
            check="retention/*", reason="still training", owner="me", expires="2026-12-31", line=13
        ),
    )
    assert plan.sha256 != plan_of(tmp_path).sha256
    assert Plan.from_json(plan.to_json(), plan.path) == plan


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("2026-12-31", "2026-02-30", "13:63: error: waivers.0.expires: there is no day 2026-02-30"),
        ("2026-12-31", "soon", "waivers.0.expires: must be a day, YYYY-MM-DD, got text 'soon'"),
        ("owner: me, ", "", "waivers.0.owner: missing key 'owner'"),
        ("reason: still training", "reason: ''", "waivers.0.reason: must not be empty text"),
        (
            "retention/*",
            "retention/naer",
            "waivers.0.check: no check is called 'retention/naer'; did you mean 'retention/near'?",
        ),
        ("retention/*", "quality/kid", "waivers.0.check: no check is called 'quality/kid'"),
        (
            "retention/*",
            "calibration/*",
            "waivers.0.check: 'calibration/*' cannot be waived: without it no other check means",
        ),
        ("retention/*", "collapse", "'collapse' cannot be waived"),
    ],
)
def test_what_is_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    (head,) = findings(tmp_path, with_waivers(GOOD.replace(old, new)))
    assert expected in head


@pytest.mark.parametrize("check", ["parity/edit", "parity/onnx engine"])
def test_checks_of_the_engine_may_be_waived_where_there_is_one(tmp_path: Path, check: str) -> None:
    waived = with_waivers(GOOD.replace("retention/*", check))
    engine = ("keep:", "export: {targets: [onnx]}\nkeep:")
    (waiver,) = plan_of(tmp_path, waived, engine).waivers
    assert waiver.check == check
    none = ("keep:", "export: {targets: []}\nkeep:")
    (head,) = findings(tmp_path, waived, none)
    assert f"no check is called '{check}'" in head
