"""A finished patch is taken with the settings that it was trained with, and with no others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_policy import small_plan

from safediff.compare.rows import choose
from safediff.erase.closed_form.params import UCE_PRESETS
from safediff.erase.params import HOW_IT_RUNS, PRESETS
from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.policy.plan import Plan
from safediff.workflow.compare import patch_run, run_contest
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.trained_with import COST, require_same_settings, settings_that_count
from safediff.workflow.training import train
from safediff.workflow.ui import SilentUi

UCE = (
    "erase:\n  options:\n    {num_steps: 8, learning_rate: 2.0e-2, num_inference_steps: 6, "
    "batch_size: 2, reuse: 2,\n     save_every_s: 0, log_every: 2}\n",
    "erase: {method: uce}\n",
)
SAID = r"patch\.safetensors: was trained with ridge 0\.5, and with this version it would be 0\.7"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return small_plan(tmp_path, UCE, ("targets: [onnx]", "targets: []"))


@pytest.fixture
def base(plan: Plan) -> Backbone:
    return load_backbone(plan.model)


def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version has for the same name."""
    presets: dict[str, object] = UCE_PRESETS  # type: ignore[assignment]
    monkeypatch.setitem(presets, "paper", replace(UCE_PRESETS["paper"], ridge=0.7))


def test_a_run_goes_on_with_its_own_settings_alone(
    plan: Plan, base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    train(plan, base, run, SilentUi())
    made = run.patch.read_bytes()
    train(plan, base, run, SilentUi())
    changed(monkeypatch)
    with pytest.raises(UsageError, match=SAID) as refused:
        train(plan, base, run, SilentUi())
    assert "\n" not in str(refused.value)
    assert "--out" in refused.value.next_step
    cost = json.loads((tmp_path / COST).read_text())
    del cost["settings"]  # as earlier versions wrote it
    (tmp_path / COST).write_text(json.dumps(cost))
    train(plan, base, run, SilentUi())
    assert run.patch.read_bytes() == made
    run.patch.unlink()  # what is not finished is not held against anything
    train(plan, base, run, SilentUi())
    assert run.patch.read_bytes() != made


def test_a_comparison_takes_no_patch_of_other_settings(
    plan: Plan, base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rows = tmp_path / "out", choose(["neg"], plan)
    run = patch_run(out, plan.erase)
    run.path.mkdir(parents=True)
    train(plan, base, run, SilentUi())
    changed(monkeypatch)
    with pytest.raises(UsageError, match=SAID):
        run_contest(plan, rows, out, SilentUi())
    assert {path.name for path in out.iterdir()} == {"patches"}  # nothing was drawn


def test_how_a_training_runs_does_not_count(tmp_path: Path) -> None:
    run, params = RunFolder(tmp_path), PRESETS["sdd"]["safediff"]
    run.patch.touch()
    run.write_text(COST, json.dumps({"settings": settings_that_count(params)}))
    aside: dict[str, Any] = {name: _other(getattr(params, name)) for name in HOW_IT_RUNS}
    require_same_settings(run, replace(params, **aside))
    with pytest.raises(UsageError, match=r"trained with eta 0\.35, .* would be 0\.5"):
        require_same_settings(run, replace(params, eta=0.5))
    run.write_text(COST, json.dumps({"settings": {"gone": 1}}))  # one version's knobs
    require_same_settings(run, params)


def _other(value: object) -> object:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else "bfloat16"
