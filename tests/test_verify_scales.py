"""Scales and steps that can't be drawn with are refused before training, wherever they are from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_policy import small_plan
from tiny import tiny_backbone
from transformer_examples import example

from safediff.erase.trainer import DistilTrainer
from safediff.errors import UsageError
from safediff.guard.load import planned_guard
from safediff.models.load import load_backbone
from safediff.policy.plan import Plan
from safediff.verify.scales import require_scales, require_steps
from safediff.workflow.erase import erase
from safediff.workflow.run_folder import open_run
from safediff.workflow.ui import SilentUi
from safediff.workflow.verify import verify

GUARDED = ("keep:", "guard: {name: sld-medium}\nkeep:")
STEERS = r"guard 'sld-medium' steers guidance, and a scale of 1\.0 has none"


def with_a_row_at(plan: Plan, scale: float) -> Plan:
    """As if one prompt came from a table that says its own scale."""
    first, *others = plan.concepts
    row, *rows = first.prompts
    prompts = (replace(row, guidance_scale=scale), *rows)
    return replace(plan, concepts=(replace(first, prompts=prompts), *others))


def test_a_guard_needs_guidance_at_every_prompt(tmp_path: Path) -> None:
    plan, base = small_plan(tmp_path, GUARDED), tiny_backbone(tmp_path)
    guard = planned_guard(plan)
    assert guard is not None
    require_scales(plan, base, guard)
    require_scales(with_a_row_at(plan, 1.0), base)
    with pytest.raises(UsageError, match=STEERS):
        require_scales(with_a_row_at(plan, 1.0), base, guard)


def test_a_network_without_scales_is_asked_at_one_only(tmp_path: Path) -> None:
    schnell = example("flux schnell", tmp_path).backbone
    plan = small_plan(tmp_path, ("guidance_scale: 5.0", "guidance_scale: 1.0"))
    require_scales(plan, schnell)
    with pytest.raises(UsageError, match=r"has no guidance, so it cannot be asked at scale 3\.5"):
        require_scales(with_a_row_at(plan, 3.5), schnell)


def test_nothing_is_trained_or_drawn_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(DistilTrainer, "__init__", refuse)
    monkeypatch.setattr("safediff.verify.verification.Verification.__init__", refuse)
    plan = with_a_row_at(small_plan(tmp_path, GUARDED), 1.0)
    with pytest.raises(UsageError, match=STEERS):
        erase(plan, open_run(plan, tmp_path / "run", resume=False), SilentUi())
    with pytest.raises(UsageError, match=STEERS):
        verify(plan, "embedded", None, tmp_path / "out", SilentUi())


def test_nor_where_the_scheduler_takes_fewer_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(DistilTrainer, "__init__", refuse)
    monkeypatch.setattr("safediff.verify.verification.Verification.__init__", refuse)
    lcm = ("{base: embedded}", "{base: embedded, scheduler: lcm}")
    plan = small_plan(tmp_path, lcm, ("num_steps: 4, guidance", "num_steps: 51, guidance"))
    said = r"verify\.sampling\.num_steps: 51, but the LCMScheduler takes at most 50"
    with pytest.raises(UsageError, match=said):
        erase(plan, open_run(plan, tmp_path / "run", resume=False), SilentUi())
    with pytest.raises(UsageError, match=said):
        verify(plan, "embedded", None, tmp_path / "out", SilentUi())
    fewer = replace(plan.verify.sampling, num_steps=50)
    plan = replace(plan, verify=replace(plan.verify, sampling=fewer))
    require_steps(plan, load_backbone(plan.model))
