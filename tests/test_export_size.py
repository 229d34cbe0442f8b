"""Exporting and swapping from the command line, measured: the benchmark's rows on a tiny model.

``pytest -m nightly`` swaps at the real size of Stable Diffusion 1.x.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import benchmark_script

MAX_SECONDS, MAX_GB = 30.0, 16.0


@pytest.fixture(scope="module")
def script() -> Any:
    return benchmark_script("export_size")


def test_the_commands_are_measured_in_processes_of_their_own(script: Any, tmp_path: Path) -> None:
    script.write_runs(tmp_path, "tiny", script.random_unet("tiny", seed=0))
    rows = {row: script.run_command(row, "tiny", tmp_path) for row in script.COMMANDS}
    for row in rows.values():
        assert row["seconds"] > 0
        assert row["peak_gb"] > 0.1
        assert "within its limits" in row["said"]
    assert "compared in brief (2 calls, latents of side 2)" in rows["command swap"]["said"]
    assert json.loads(json.dumps(rows)) == rows
    with pytest.raises(SystemExit, match=r"command swap: exit code 3: .*no such engine"):
        script.run_command("command swap", "tiny", tmp_path / "nothing")


@pytest.mark.nightly
def test_a_swap_at_the_real_size_is_a_matter_of_seconds(script: Any, tmp_path: Path) -> None:
    for row in (script.PREPARE, *script.COMMANDS):
        given = [sys.executable, script.__file__, "--size", "sd1", "--work", tmp_path, "--row", row]
        done = subprocess.run(given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] <= MAX_SECONDS, found
    assert found["peak_gb"] <= MAX_GB, found
