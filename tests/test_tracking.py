"""Experiment trackers: what they are told, and what is refused before anything is loaded."""

import importlib
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from accelerate.utils import LoggerType
from small_policy import small_plan, write_policy
from test_cli_verbs import Ran, here, said
from test_erase_shards import scalars
from tracker_example import told, write_wandb

from safediff.erase.params import DistilParams
from safediff.erase.trainer import StepInfo
from safediff.errors import UsageError
from safediff.workflow import tracking
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.tracking import check_trackers

__all__ = ["here"]


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(UsageError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    check_trackers(["wandb"])
    with pytest.raises(UsageError, match="--track tensorboard: is not installed") as told:
        check_trackers(["wandb", "tensorboard"])
    assert told.value.next_step == "pip install 'safediff[track]'"


def test_it_is_told_before_there_is_a_run(tmp_path: Path, here: Ran) -> None:
    done = here("erase", write_policy(tmp_path), "--out", tmp_path / "run", "--track", "notes")
    assert said(done, 2).startswith("error: --track: there is no tracker 'notes'")
    assert not (tmp_path / "run").exists()


STEPS = [
    StepInfo(
        step=step,
        num_steps=2,
        loss=0.5 - step / 8,
        erase=0.25,
        keep=0.125,
        anchor=0.0,
        grad_norm=2.0,
        num_passes=10 * step,
        null_drift=None if step else 0.0625,
        most_left=None,
    )
    for step in range(2)
]


def tracked(folder: Path, *names: str) -> RunFolder:
    """Two steps of a training that trackers were told of."""
    run = RunFolder(folder / "run")
    with tracking.tracking(names, small_plan(folder), DistilParams(), run) as track:
        for info in STEPS:
            track(info)
    return run


def test_both_trackers_are_told_numbers_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's place is taken by a module that writes down what it is asked."""
    write_wandb(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(sys.modules, "wandb", None)  # whatever stands here afterwards is undone
    del sys.modules["wandb"]
    importlib.import_module("wandb")
    monkeypatch.setenv("WANDB_TOLD", str(tmp_path / "told.jsonl"))
    monkeypatch.setattr("accelerate.tracking._available_trackers", [*LoggerType])
    run = tracked(tmp_path, "tensorboard", "wandb")
    numbers = [
        {k: v for k, v in asdict(info).items() if v is not None and k not in ("step", "num_steps")}
        for info in STEPS
    ]
    begun, settings, *logged, ended = told(tmp_path / "told.jsonl")
    own = {"dir": str(run.tracking), "settings": {"console": "off"}}
    assert begun["init"] == {"project": "small", **own}
    assert settings["config"]["method"] == "sdd"
    assert settings["config"]["learning_rate"] == DistilParams().learning_rate
    assert [row["log"] for row in logged] == [
        [n, i.step] for n, i in zip(numbers, STEPS, strict=True)
    ]
    assert ended["finish"] is True
    (events,) = (run.tracking / "small").glob("events.*")
    assert scalars(events)["loss"] == [0.5, 0.375]
    assert scalars(events)["null_drift"] == [0.0625]
    shown = (tmp_path / "told.jsonl").read_text() + events.read_bytes().decode("latin-1")
    for text in ("bomb", "hammer", "style"):
        assert text not in shown  # no text of the policy


def test_wandb_itself_is_told_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(tmp_path)
    run = tracked(tmp_path, "wandb")
    (kept,) = run.tracking.glob("wandb/offline-run-*/run-*.wandb")
    data, deadline = kept.read_bytes(), time.monotonic() + 60
    while b"grad_norm" not in data and time.monotonic() < deadline:  # a process of its own writes
        time.sleep(0.2)
        data = kept.read_bytes()
    assert b"grad_norm" in data
    assert b"hammer" not in data
    assert not (tmp_path / "wandb").exists()
