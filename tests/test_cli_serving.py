"""``safediff export`` and ``safediff serve`` as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from gate_examples import make_report, make_result
from safetensors.torch import load_file
from serving_examples import copy_of, exported, release, write_example
from test_cli_verbs import Ran, here, said
from test_serve_pipeline import changed, with_engine, with_weights

from safediff.errors import Inconclusive
from safediff.export import parity, survival
from safediff.export.manifest import read_manifest
from safediff.export.plan_sidecar import write_plan
from safediff.gate.verdict import GateReport, Verdict
from safediff.release.checksums import SUMS_NAME, verify_checksums
from safediff.workflow import deploy, export, plans
from safediff.workflow.engine_report import EngineReport
from safediff.workflow.export_source import ExportSource, policy_form

__all__ = ["here"]


def test_a_whole_folder(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "serve"
    done = here("export", release(), "--onnx", "--full", "--precision", "int8", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: int8, opset 18, weights identical (initializers ")
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest["engines"][0]["precision"] == "int8"


def run_whose_policy_wants(run: Path, **export: object) -> Path:
    """As much of a run as is read before its model."""
    run.mkdir()
    (run / "plan.json").write_text(json.dumps({"plan": {"export": export}}), encoding="utf-8")
    return run


def test_precision_and_opset_are_the_policys(tmp_path: Path) -> None:
    newest: dict[str, object] = {"precision": "fp16", "opset": 23}
    assert policy_form(write_example(tmp_path / "release", export=newest)) == ("fp16", 23)
    assert policy_form(run_whose_policy_wants(tmp_path / "run", **newest)) == ("fp16", 23)
    earlier = run_whose_policy_wants(tmp_path / "earlier", precision="fp16")
    assert policy_form(earlier) == ("fp16", 18)
    assert policy_form(tmp_path) == ("fp32", 18)


@pytest.mark.parametrize(
    ("options", "written", "opset"),
    [
        ((), "fp16", 23),
        (("--precision", "fp32"), "fp32", 23),
        (("--opset", "18"), "fp16", 18),
    ],
    ids=str,
)
def test_export_takes_them_where_none_are_given(
    tmp_path: Path,
    here: Ran,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    written: str,
    opset: int,
) -> None:
    asked: list[object] = []

    def asks(*given: object, **more: object) -> None:
        asked.extend((given[1:4], more))
        raise Inconclusive("enough")

    monkeypatch.setattr(deploy, "deploy_run", asks)
    run = run_whose_policy_wants(tmp_path / "run", precision="fp16", opset=23)
    here("export", run, "--onnx", "--full", *options)
    assert asked == [(tmp_path / f"run-{written}", written, opset), {}]


def test_a_plan_is_built_from_the_opset_that_builders_read(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def asks(*given: object, **more: object) -> None:
        asked.extend((given[3], more["opset"]))
        raise Inconclusive("enough")

    monkeypatch.setattr(plans, "export_plan", asks)
    run = run_whose_policy_wants(tmp_path / "run", precision="fp16", opset=23)
    here("export", run, "--trt")
    assert asked == ["fp16", 18]


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


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--precision", "fp16"), "--precision fp16: {engine} has fp32, and --swap-weights keeps"),
        (("--full", "--opset", "23"), "--opset 23: {engine} has 18, and --swap-weights keeps it"),
    ],
    ids=str,
)
def test_a_swap_refuses_what_it_would_ignore(
    tmp_path: Path, here: Ran, options: tuple[str, ...], line: str
) -> None:
    nothing = tmp_path / "nothing"  # it is not even looked at
    done = here("export", nothing, "--swap-weights", exported(), *options)
    assert said(done, 2).startswith(f"error: {line.format(engine=exported())}")


@pytest.mark.parametrize(
    ("options", "folder"), [((), "run-engine-fp32"), (("--full",), "run-fp32")], ids=str
)
def test_a_swap_is_called_and_completed_by_what_the_engine_has(
    tmp_path: Path,
    here: Ran,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    folder: str,
) -> None:
    asked: list[object] = []

    def asks(*given: object) -> None:
        asked.extend(given)
        raise Inconclusive("enough")

    monkeypatch.setattr(deploy, "deploy_run", asks)
    monkeypatch.setattr(export, "swap", asks)
    run = run_whose_policy_wants(tmp_path / "run", precision="fp16", opset=23)
    assert said(here("export", run, "--swap-weights", exported(), *options), 3) == "error: enough"
    assert tmp_path / folder in asked
    if options:
        assert asked[2:4] == ["fp32", 18]


@pytest.mark.parametrize(
    ("target", "options", "line"),
    [
        ("--trt", ("--precision", "fp16"), "--precision fp16: {plan} has fp32, and --swap-weights"),
        ("--trt-rtx", (), "--trt-rtx: {plan} is a plan of tensorrt"),
    ],
    ids=str,
)
def test_a_plan_stays_what_it_is(
    tmp_path: Path, here: Ran, target: str, options: tuple[str, ...], line: str
) -> None:
    plan = tmp_path / "unet.plan"
    write_plan(plan, b"a plan", {"kind": "tensorrt", "precision": "fp32"})
    done = here("export", tmp_path / "nothing", target, "--swap-weights", plan, *options)
    assert said(done, 2).startswith(f"error: {line.format(plan=plan)}")


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.WARN])
def test_the_gate_on_the_engine_decides_the_exit_code(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    seen: list[str] = []

    def measured(
        plan: object, source: ExportSource, engine: Path, report: EngineReport
    ) -> GateReport:
        seen.extend(check.id for check in report.checks)
        return make_report((make_result("erasure/all", verdict),))

    monkeypatch.setattr(deploy, "measure_gate", measured)
    monkeypatch.setattr(deploy, "same_policy", lambda source, policy: policy)
    monkeypatch.setattr(survival, "MIN_COSINE", 1.1)  # a drowned edit is for the gate to decide
    policy, out = tmp_path / "policy.yaml", tmp_path / "serve"
    done = here("export", release(), "--onnx", "--full", "--gate", policy, "--out", out)
    assert done.returncode == verdict.exit_code
    assert seen == ["parity/onnx engine", "parity/edit"]
    if verdict.exit_code:
        assert said(done, verdict.exit_code).startswith(f"error: {out}: not written, ")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["serve.gate.json"]
        told = json.loads((tmp_path / "serve.gate.json").read_text(encoding="utf-8"))
        assert told["verdict"] == verdict.value
    else:
        manifest = read_manifest(out)
        assert manifest is not None
        assert manifest["engines"][0]["gate"]["bound_to"] == manifest["engines"][0]["sha256"]


EXPORTS = {
    "one engine": ("--onnx",),
    "a whole folder": ("--onnx", "--full"),
    "other weights": ("--swap-weights",),
}


@pytest.mark.parametrize("options", EXPORTS.values(), ids=EXPORTS)
@pytest.mark.parametrize("broken", ["parity", "edit"])
def test_an_engine_that_fails_its_checks_leaves_nothing(
    tmp_path: Path,
    here: Ran,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    broken: str,
) -> None:
    if broken == "parity":
        none = parity.ParityLimits(max_abs=1e-12, mean_abs=1e-12, min_cosine=1.0)
        monkeypatch.setitem(parity.LIMITS, "fp32", none)  # type: ignore[arg-type]
    else:
        monkeypatch.setattr(survival, "MIN_COSINE", 1.1)
    if "--swap-weights" in options:
        options = (*options, str(exported()))
    out = tmp_path / "out"
    line = said(here("export", release(), *options, "--out", out), 1)
    assert line.startswith(f"error: {out}: not written, the engine failed its checks: ")
    assert ("OUTSIDE" if broken == "parity" else "DROWNS IN ROUNDING") in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["a path", "."])
def test_without_out_the_release_stays_as_it_was(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    path = copy_of(release(), tmp_path / "r")
    monkeypatch.chdir(path)
    done = here("export", path if given == "a path" else Path(given), "--onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'r-engine-fp32'}: fp32")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r", "r-engine-fp32"]
    verify_checksums(path)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "no target given"),
        (("--trt", "--trt-rtx"), "--trt and --trt-rtx: one target at a time"),
        (("--onnx", "--trt"), "--onnx and --trt: one target at a time"),
        (("--trt", "--full"), "--full: a whole folder holds ONNX engines, not plans"),
        (("--trt-rtx", "--full", "--target", "SM89"), "--full: a whole folder holds ONNX engines"),
    ],
)
def test_options_that_would_be_ignored(here: Ran, options: tuple[str, ...], line: str) -> None:
    assert said(here("export", release(), *options), 2).startswith(f"error: {line}")


@pytest.mark.parametrize(
    "options",
    [
        ("--onnx",),
        ("--full",),
        ("--swap-weights", "engine"),
        ("--trt",),
        ("--trt-rtx",),
        ("--target", ""),
        ("--static",),
        ("--refit",),
        ("--precision", "fp16"),
        ("--max-error", "0"),
        ("--opset", "0"),
        ("--layout", "triton"),
    ],
    ids=lambda options: str(options[0]),
)
def test_a_plan_that_is_gated_stays_as_it_is(here: Ran, options: tuple[str, ...]) -> None:
    done = here("export", "r", "--plan", "engines/x.plan", "--gate", "policy.yaml", *options)
    assert said(done, 2) == "error: --plan: a plan that is there is gated, nothing else"
    assert f"leave {options[0]} out" in done.stderr


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
        (("--cuda-graph",), "error: CPUExecutionProvider: has no CUDA graphs"),
        (("--accept-unverified", "because"), "error: --accept-unverified 'because': is no reason"),
    ],
)
def test_serve_refuses(here: Ran, options: tuple[str, ...], line: str) -> None:
    assert said(here("serve", exported(), *options), 2).startswith(line)


@pytest.mark.parametrize(
    ("options", "spin", "graph"),
    [
        ((), True, None),
        (("--no-spin",), False, None),
        (("--cuda-graph",), True, True),
        (("--no-cuda-graph",), True, False),
    ],
    ids=str,
)
def test_serve_hands_its_options_on(
    here: Ran,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    spin: bool,
    graph: bool | None,
) -> None:
    def opened(release: Path, **given: object) -> None:
        assert (given["spin"], given["cuda_graph"]) == (spin, graph)
        raise Inconclusive("enough")

    monkeypatch.setattr("safediff.serve.pipeline.SafePipeline.from_release", opened)
    assert said(here("serve", exported(), *options), 3) == "error: enough"


def tampered_engine(path: Path) -> None:
    data = copy_of(exported(), path) / "unet" / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def swapped_weights(path: Path) -> None:
    name = "unet/diffusion_pytorch_model.safetensors"
    with_weights(path, name, changed(load_file(exported() / name)))


def wrong_checksum(path: Path) -> None:
    sums = copy_of(exported(), path) / SUMS_NAME
    line = next(line for line in sums.read_text().splitlines() if line.endswith("unet/config.json"))
    sums.write_text(sums.read_text().replace(line, f"{'0' * 64}{line[64:]}"))


def engine_of_another_base(path: Path) -> None:
    with_engine(path, 3, {"base_sha256": "ee" * 32})


CHANGES: dict[Callable[[Path], None], str] = {
    tampered_engine: "does not match its SHA256SUMS: unet/model.onnx.data differs",
    swapped_weights: "unet/diffusion_pytorch_model.safetensors is not the file that the "
    "certificate speaks of",
    wrong_checksum: "does not match its SHA256SUMS: unet/config.json differs",
    engine_of_another_base: "unet/model.onnx is not the engine that the certificate speaks of",
}


@pytest.mark.parametrize("engine", ["auto", "onnx"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_was_changed_is_not_served(
    tmp_path: Path, here: Ran, change: Callable[[Path], None], engine: str
) -> None:
    change(tmp_path / "r")
    done = here("serve", tmp_path / "r", "--engine", engine)
    assert said(done, 2) == f"error: {tmp_path / 'r'}: {CHANGES[change]}"
    assert (done.stdout, done.stderr.count("\n")) == ("", 2)


def test_sign_wants_a_release(tmp_path: Path, here: Ran) -> None:
    done = here("sign", tmp_path, "--key", tmp_path / "key.pem")
    assert said(done, 2) == f"error: {tmp_path}: holds no safety-certificate.json"
    assert "next: give a release folder" in done.stderr


def test_serve_wants_its_extra(here: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = here("serve", exported())
    assert said(done, 2) == "error: fastapi is not installed"
    assert "safediff[serve]" in done.stderr


def test_a_changed_file_is_one_line(tmp_path: Path, here: Ran) -> None:
    path = copy_of(exported(), tmp_path / "r")
    config = path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 16}))
    assert said(here("serve", path), 2) == (
        f"error: {path}: does not match its SHA256SUMS: unet/config.json differs"
    )


@pytest.mark.parametrize("given", ["inf", "1e300"])
def test_no_thread_can_wait_that_long(here: Ran, given: str) -> None:
    line = said(here("serve", "r", "--max-wait-ms", given), 2)
    assert line == f"error: --max-wait-ms {float(given)}: expected 0 to 60000"
