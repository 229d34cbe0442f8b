"""The gate on an engine catches a precision that revives what was erased.

Such an engine holds weights in steps so wide that the edit rounds to nothing: it draws well, and
the concepts, too. Proof and comparison would refuse it long before; here they are made to let
everything pass, so that the pictures decide alone.
"""

import json
from functools import partial
from math import inf
from pathlib import Path

import pytest
from benchmark_scripts import benchmark_script
from small_policy import finished, write_policy

from safediff.errors import PolicyViolated
from safediff.export import parity
from safediff.export.manifest import read_manifest
from safediff.export.to_onnx import swap_weights
from safediff.gate.verdict import Verdict
from safediff.workflow.deploy import Deployed, deploy
from safediff.workflow.engine_gate import measure_gate, same_policy
from safediff.workflow.export import metadata
from safediff.workflow.export_source import open_source

COARSE, FINE = 0.5, 1000.0
"""Steps between nothing and the edit's largest value, tensor by tensor."""


@pytest.fixture
def only_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    anything = parity.ParityLimits(max_abs=1e9, mean_abs=1e9, min_cosine=-1.0)
    monkeypatch.setitem(parity.LIMITS, "fp32", anything)  # type: ignore[arg-type]
    monkeypatch.setattr(parity, "MAX_MARGIN_RATIO", inf)
    monkeypatch.setattr("safediff.workflow.deploy.verify_identity", lambda path, state: None)


def deployed(folder: Path, steps: float, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    """What ``safediff export RUN --onnx --full --gate POLICY`` does, with rounded weights."""
    script = benchmark_script("precision")
    monkeypatch.setattr(script, "EDIT_STEPS", steps)
    source = open_source(finished().run.path)
    assert source.base is not None
    states = source.base.denoiser.state_dict(), source.model.denoiser.state_dict()
    rounded = script.lost(*states)

    def write(out: Path) -> None:
        assert source.engine is not None
        swap_weights(source.engine, out, rounded, metadata=metadata(source))

    gate = partial(measure_gate, same_policy(source, write_policy(folder / "policy")), source)
    return deploy(source, folder / "out", "fp32", 18, engine=write, gates=[gate])


@pytest.mark.usefixtures("only_pictures")
def test_a_precision_in_which_the_edit_is_lost_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PolicyViolated, match="not written, policy small is not met"):
        deployed(tmp_path, COARSE, monkeypatch)
    assert not (tmp_path / "out").exists()
    rows = json.loads((tmp_path / "out.gate.json").read_text())["results"]
    failed = {row["id"] for row in rows if row["verdict"] == Verdict.FAIL.value}
    assert "erasure/all" in failed
    assert all(name.startswith("erasure/") for name in failed)  # its pictures are good ones


@pytest.mark.usefixtures("only_pictures")
def test_a_precision_that_keeps_the_edit_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = deployed(tmp_path, FINE, monkeypatch)
    assert [report.verdict for report in found.gates] == [Verdict.PASS]
    margin = found.engine.parity and found.engine.parity.margin_ratio
    assert margin is not None
    assert 0 < margin < 0.1
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest["engines"][0]["gate"]["verdict"] == "pass"


def test_before_the_pictures_the_comparison_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safediff.workflow.deploy.verify_identity", lambda path, state: None)
    with pytest.raises(
        PolicyViolated, match=r"not written, the engine failed its checks: .*OUTSIDE"
    ):
        deployed(tmp_path, COARSE, monkeypatch)
    assert not (tmp_path / "out.gate.json").exists()
