"""Exported folders in optimum's ONNX pipelines; ``make test-optimum`` runs it.

They need transformers 4, safediff 5: the script under test makes an environment of its own.
"""

import json
import subprocess
from pathlib import Path

import pytest
from serving_examples import exported

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_optimum.sh"
pytestmark = pytest.mark.optimum


def test_exported_folders_draw_in_optimum_what_they_draw_in_diffusers(tmp_path: Path) -> None:
    folders = [exported(), exported("fp16"), exported(xl=True)]
    out = tmp_path / "optimum.json"
    done = subprocess.run([SCRIPT, *folders, "--out", out], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())["folders"]
    assert [(row["pipeline"], row["precision"]) for row in rows] == [
        ("StableDiffusionPipeline", "fp32"),
        ("StableDiffusionPipeline", "fp16"),
        ("StableDiffusionXLPipeline", "fp32"),
    ]
    for row in rows:
        assert row["standard_deviation"] > 0.01  # a picture, not one colour
        assert row["max_abs_difference"] <= row["limit"]
