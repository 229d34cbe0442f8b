"""``safediff export`` and ``safediff serve`` as they are typed."""

import json
from pathlib import Path

import pytest
from serving_examples import exported, release
from test_cli_verbs import Ran, here, said

from safediff.export.manifest import read_manifest
from safediff.workflow import deploy
from safediff.workflow.export_source import ExportSource

__all__ = ["here"]


def test_a_whole_folder(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "serve"
    done = here("export", release(), "--onnx", "--full", "--precision", "int8", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: int8, opset 18, weights identical (initializers ")
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest["engines"][0]["precision"] == "int8"


def test_swapped_weights(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "engine"
    done = here("export", release(), "--swap-weights", exported(), "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "weights identical" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "model.onnx",
        "model.onnx.data",
    ]
    done = here("export", release(), "--swap-weights", exported(), "--precision", "int8")
    assert said(done, 2).startswith("error: --swap-weights: the scales of an int8 engine")


def test_the_gate_on_the_engine_decides_the_exit_code(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gate_examples import make_report, make_result

    from safediff.gate.verdict import GateReport, Verdict

    seen: list[Path] = []

    def measured(plan: object, source: ExportSource, engine: Path) -> GateReport:
        seen.append(engine)
        return make_report((make_result("erasure/all", Verdict.FAIL),))

    monkeypatch.setattr(deploy, "measure_gate", measured)
    monkeypatch.setattr(deploy, "_same_policy", lambda source, policy: policy)
    policy, out = tmp_path / "policy.yaml", tmp_path / "serve"
    done = here("export", release(), "--onnx", "--full", "--gate", policy, "--out", out)
    assert said(done, 1).startswith("error: policy ")
    assert "gate: fail" in done.stdout
    assert len(seen) == 1
    manifest = read_manifest(out)
    assert manifest is not None
    gate = manifest["engines"][0]["gate"]
    assert gate["verdict"] == "fail"
    assert gate["bound_to"] == manifest["engines"][0]["sha256"]


def test_another_policy_is_refused_for_the_gate(tmp_path: Path, here: Ran) -> None:
    policy = Path(__file__).parents[1] / "policies" / "demo-weapons.yaml"
    out = tmp_path / "serve"
    done = here("export", release(), "--onnx", "--full", "--gate", policy, "--out", out)
    assert "is not the policy that" in said(done, 2)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--engine", "tpu"), "error: --engine tpu: expected auto, onnx, torch"),
        (("--provider", "CUDAExecutionProvider"), "error: CUDAExecutionProvider is not available"),
        (("--accept-unverified", "because"), "error: --accept-unverified 'because': is no reason"),
    ],
)
def test_serve_refuses(here: Ran, options: tuple[str, ...], line: str) -> None:
    assert said(here("serve", exported(), *options), 2).startswith(line)


def test_serve_wants_its_extra(here: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = here("serve", exported())
    assert said(done, 2) == "error: fastapi is not installed"
    assert "safediff[serve]" in done.stderr


def test_a_changed_file_is_one_line(tmp_path: Path, here: Ran) -> None:
    from serving_examples import copy_of

    path = copy_of(exported(), tmp_path / "r")
    config = path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 16}))
    assert said(here("serve", path), 2) == (
        f"error: {path}: does not match its SHA256SUMS: unet/config.json differs"
    )
