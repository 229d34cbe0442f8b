"""The clock of a folder's work."""

from pathlib import Path

import pytest

from safediff.workflow import clock
from safediff.workflow.clock import Clock, Elapsed


def test_runs_on_one_folder_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    path = tmp_path / "clock.json"
    first = Clock(path)
    now[0] = 60.0
    assert first.tick() == Elapsed(60.0, 1)
    now[0] = 90.0
    assert first.tick() == Elapsed(90.0, 1)
    # killed here: what came after the last tick is not known
    now[0] = 1000.0
    second = Clock(path)
    now[0] = 1030.0
    assert second.tick() == Elapsed(120.0, 2)
    assert Elapsed(120.0, 2).told(1) == "2.0 minutes in 2 runs"
    told = Elapsed(90.0, 1).told(2)
    assert told == "1.5 minutes in one run, 2 patches distilled beside the drawing"
