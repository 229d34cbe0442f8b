"""Experiment trackers: what they are told, and what is refused before anything is loaded."""

from pathlib import Path

import pytest
from small_policy import safediff, write_policy

from safediff.errors import UsageError
from safediff.workflow import tracking
from safediff.workflow.tracking import check_trackers


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(UsageError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    check_trackers(["wandb"])
    with pytest.raises(UsageError, match="--track tensorboard: is not installed") as told:
        check_trackers(["wandb", "tensorboard"])
    assert told.value.next_step == "pip install 'safediff[track]'"


def test_it_is_told_before_there_is_a_run(tmp_path: Path) -> None:
    policy = write_policy(tmp_path)
    done = safediff("erase", policy, "--out", tmp_path / "run", "--track", "notes")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --track: there is no tracker 'notes'")
    assert not (tmp_path / "run").exists()
