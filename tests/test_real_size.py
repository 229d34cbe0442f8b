"""Erasing at the real size of Stable Diffusion 1.x, on the CPU; `pytest -m nightly` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_RSS_GIB = 12.0


@pytest.mark.nightly
def test_two_steps_of_sdd_fit_a_laptop() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "real_size.py"), "--steps", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=1800)
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert [step["step"] for step in report["steps"]] == [0, 1]
    assert report["num_rollouts"] == 1  # both losses on one rollout
    assert all(step["loss"] > 0 and step["grad_norm"] > 0 for step in report["steps"])
    # never less than the tensors alone, or something was not measured
    assert report["expected_tensors_gib"] < report["max_rss_gib"] <= MAX_RSS_GIB
