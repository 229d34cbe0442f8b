"""Erasing as a task of a run: what it says of itself."""

import json
from pathlib import Path

from small_policy import write_policy

from safediff.models.load import load_backbone
from safediff.policy.load import load_plan
from safediff.workflow.run_folder import open_run
from safediff.workflow.training import train
from safediff.workflow.ui import SilentUi


def test_a_training_that_ended_early_says_so_and_why(tmp_path: Path) -> None:
    whole = "log_every: 2}"
    policy = write_policy(tmp_path, (whole, f"{whole[:-1]}, keep_share: 0, stop_at: 0.999}}"))
    plan = load_plan(policy)
    run = open_run(plan, tmp_path / "run", resume=False)
    base = load_backbone(plan.model)
    first = train(plan, base, run, SilentUi())
    taken = len(first.steps)
    assert taken < plan.erase.options.get("num_steps", 0)
    assert first.steps[-1]["most_left"] < 0.999 <= first.steps[-2]["most_left"]
    assert first.facts["steps"].endswith(
        f"; ended after {taken}, since less than 0.999 of every text was left"
    )
    cost = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    again = train(plan, base, run, SilentUi())
    assert again.facts == first.facts
    assert cost["passes"] == max(step["num_passes"] for step in first.steps)
