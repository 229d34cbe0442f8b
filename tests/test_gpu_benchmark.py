"""The script that measures on a GPU, run on the CPU with tiny networks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMON = {"passes_per_s", "steps_per_s", "share_of_ceiling", "minutes_of_the_recipe"}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, float]]]:
    out = tmp_path_factory.mktemp("gpu") / "gpu_erase.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_erase.py"), "--tiny"]
    command += ["--stage-s", "0.1", "--skip", "engine", "compile", "safediff", "fast, lean"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [*command, "--out", str(out)], env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, dict[str, dict[str, float]]] = json.loads(out.read_text())
    return found


def test_every_stage_gave_positive_numbers(
    result: dict[str, dict[str, dict[str, float]]],
) -> None:
    assert result["failed"] == {}
    assert set(result["stages"]) == {
        "sd1 erase: fast",
        "sd1 reference loop, float32",
        "sd1 reference loop, float16",
        "sdxl erase: fast",
        "sd1 draw",
        "sdxl draw",
        "sd1 erase: repo, float32",
    }
    for name, row in result["stages"].items():
        asked = {"pictures_per_s", "share_of_ceiling"} if name.endswith("draw") else COMMON
        assert asked <= set(row), name
        assert all(row[key] > 0 for key in asked), name
        if "erase" in name:
            assert row["expected_peak_gib"] > 0
            assert row["minutes_of_the_recipe"] == pytest.approx(
                row["passes_of_the_recipe"] / row["passes_per_s"] / 60
            )


def test_the_script_around_it_is_valid() -> None:
    subprocess.run(["sh", "-n", str(ROOT / "benchmarks" / "gpu.sh")], check=True)


def test_what_was_left_out_is_listed(result: dict[str, dict[str, dict[str, float]]]) -> None:
    assert "sd1 engine" in result["not_begun"]
    assert len(result["not_begun"]) == 7
    assert result["weights"] == "random"
    assert result["ceiling_tflops"] > 0  # type: ignore[operator]
