"""A plan in a release: what it was built from is certified, and nothing else is believed of it.

The plans are TensorRT-RTX's own, built for SM89 without a GPU. Whoever renews checksums, or the
certificate as well, still has to bring a plan that holds the certified weights.
"""

import functools
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from release_examples import new_keys
from serving_examples import copy_of, exported, passed_gate, recertified, release
from tensorrt_examples import needs_rtx, without_driver
from test_cli_verbs import Ran, here, said
from tiny import tiny_engine, tiny_unet

from safediff.errors import Inconclusive, UsageError
from safediff.export.engine_files import Precision
from safediff.export.manifest import read_manifest, write_manifest
from safediff.export.plan_profile import Profile
from safediff.export.plan_sidecar import amend_sidecar, read_sidecar, sidecar_path
from safediff.export.runtime import SafePipeline
from safediff.export.to_onnx import swap_weights
from safediff.export.to_tensorrt import build
from safediff.models.patch import unet_sha256
from safediff.release.certificate import dump_certificate
from safediff.release.certificate_schema import read_certificate
from safediff.release.checksums import sha256_file, verify_checksums, write_checksums
from safediff.release.signing import sign_release
from safediff.serve.trust import Trust, establish
from safediff.workflow.plans import export_plan

__all__ = ["here"]

pytestmark = needs_rtx
CERTIFICATE = "safety-certificate.json"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
REASON = "a trial on the new machine"
NUM_TENSORS = len(tiny_unet().state_dict())


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release with a plan for SM89; do not write to it."""
    folder = tmp_path_factory.mktemp("planned") / "r"
    export_plan(release(), folder, "tensorrt_rtx", "fp32", "SM89", static=True)
    return folder


@pytest.fixture
def path(planned: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return copy_of(planned, tmp_path / "r")


def plan_of(path: Path) -> Path:
    (plan,) = (path / "engines").glob("*.plan")
    return plan


def row_of(path: Path) -> dict[str, Any]:
    (row,) = read_certificate(path / CERTIFICATE)["engines"]
    return dict(row)


def test_what_the_release_says_of_its_plan(planned: Path) -> None:
    verify_checksums(planned)
    plan, row = plan_of(planned), row_of(planned)
    sidecar, certificate = read_sidecar(plan), read_certificate(planned / CERTIFICATE)
    assert row["path"] == f"engines/{plan.name}"
    assert row["sha256"] == sidecar["sha256"] == sha256_file(plan)
    assert row["files"] == {f"engines/{plan.name}.json": sha256_file(sidecar_path(plan))}
    assert (row["kind"], row["part"], row["precision"]) == ("tensorrt_rtx", "unet", "fp32")
    assert row["weights_sha256"] == unet_sha256(tiny_unet())
    assert (row["parity"], row["gate"]) == (None, None)  # it was never run
    facts = row["plan"]
    assert (facts["target"], facts["source_certified"]) == ("SM89", True)
    assert facts["source_onnx_sha256"] == sha256_file(planned / "unet" / "model.onnx")
    assert facts["base_sha256"] == certificate["base_model"]["sha256"]["unet"]
    found = facts["weights_found"]
    assert found["of"] == found["edited_of"] == NUM_TENSORS
    assert found["found"] == found["edited_found"] > 0.9 * NUM_TENSORS
    assert found["base_found"] == 0
    assert certificate["extends"] == sha256_file(release() / CERTIFICATE)
    manifest = read_manifest(planned)
    assert manifest is not None
    assert [e["path"] for e in manifest["engines"]] == [row["path"]]
    assert manifest["engines"][0]["gate"] is None
    issued = read_certificate(release() / CERTIFICATE)
    for name in issued.keys() - {"engines", "extends"}:  # the verdict speaks of what it spoke of
        assert certificate[name] == issued[name]


def test_plans_and_engines_add_up(planned: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    export_plan(planned, second, "tensorrt_rtx", "fp32", "SM120", static=True)
    rows = read_certificate(second / CERTIFICATE)["engines"]
    assert [row["plan"]["target"] for row in rows] == ["SM120", "SM89"]
    assert establish(second).engine == "onnx"
    full = tmp_path / "full"
    export_plan(exported(), full, "tensorrt_rtx", "fp32", "SM89", static=True)
    rows = read_certificate(full / CERTIFICATE)["engines"]
    assert [row["part"] for row in rows] == ["unet", "model", "text_encoder", "vae_decoder"]
    assert establish(full).engine == "onnx"


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_proved_by_its_weights(tmp_path: Path, precision: Precision) -> None:
    """Its graph is none of the release; the weights that it was built from are, cast."""
    folder = tmp_path / "half"
    export_plan(release(), folder, "tensorrt_rtx", precision, "SM89", static=True)
    row = row_of(folder)
    assert row["precision"] == precision
    assert row["plan"]["source_certified"] is False
    assert row["plan"]["weights_found"]["found"] > 0.8 * NUM_TENSORS
    trust = establish(folder, engine=row["path"], accept_unverified=REASON)
    assert trust.engine == "plan"


@functools.cache
def other_plan() -> tuple[bytes, str]:
    """A plan of another model, and its sidecar."""
    with tempfile.TemporaryDirectory(prefix="safediff-tests-") as folder:
        engine, plan = Path(folder) / "engine", Path(folder) / "other.plan"
        swap_weights(tiny_engine(), engine, tiny_unet(seed=7).state_dict(), metadata={})
        build(engine, plan, "tensorrt_rtx", Profile.fixed(8), target="SM89")
        return plan.read_bytes(), sidecar_path(plan).read_text()


def other_weights(path: Path) -> None:
    """The plan of another model in the place of the certified one, with its own sidecar."""
    plan = plan_of(path)
    kept = {name: read_sidecar(plan)[name] for name in ("path", "weights_found", "base_sha256")}
    content, sidecar = other_plan()
    plan.write_bytes(content)
    sidecar_path(plan).write_text(sidecar)
    amend_sidecar(plan, **kept)


def a_byte(path: Path) -> None:
    plan = plan_of(path)
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)


def a_weight(path: Path) -> None:
    """A byte of one weight, in a plan whose sidecar was renewed, too."""
    plan = plan_of(path)
    content = bytearray(plan.read_bytes())
    content[content.index(tiny_unet().state_dict()["conv_in.bias"].numpy().tobytes())] ^= 1
    plan.write_bytes(content)
    renewed = json.loads(sidecar_path(plan).read_text()) | {"sha256": sha256_file(plan)}
    sidecar_path(plan).write_text(json.dumps(renewed))


def forged_sidecar(path: Path) -> None:
    """Another model's plan that says it was built from the certified weights."""
    said = read_sidecar(plan_of(path))
    other_weights(path)
    kept = ("weights_sha256", "source_onnx_sha256")
    amend_sidecar(plan_of(path), **{name: said[name] for name in kept})


def another_base(path: Path) -> None:
    amend_sidecar(plan_of(path), base_sha256="ee" * 32)


def another_count(path: Path) -> None:
    amend_sidecar(plan_of(path), weights_found={"found": NUM_TENSORS, "of": NUM_TENSORS})


def another_graph(path: Path) -> None:
    amend_sidecar(plan_of(path), source_onnx_sha256="ee" * 32)


def one_more(path: Path) -> None:
    (path / "engines" / "more.plan").write_bytes(b"native code")


def moved(path: Path) -> None:
    plan_of(path).rename(path / "unet" / "x.plan")


def no_sidecar(path: Path) -> None:
    sidecar_path(plan_of(path)).write_text("{}")


def gone(path: Path) -> None:
    plan_of(path).unlink()


Change = Callable[[Path], None]
RENEWED_SUMS: list[tuple[Change, str]] = [
    (a_byte, "is another plan than the certificate speaks of"),
    (other_weights, "is another plan than the certificate speaks of"),
    (another_base, r"plan\.json is not the file that the certificate speaks of"),
    (one_more, r"engines/more\.plan is a plan that is not among those that the certificate speaks"),
    (gone, "is missing, the certificate speaks of it"),
    (moved, "is missing, the certificate speaks of it"),
]
RENEWED_CERTIFICATE: list[tuple[Change, str]] = [
    (other_weights, "its sidecar says weights_sha256 .*, the certificate"),
    (another_base, "is a plan of base eeeeeeeeeeee, the certificate speaks of"),
    (another_count, "its sidecar and the certificate say different things of weights_found"),
    (another_graph, r"was built from unet/model\.onnx eeeeeeeeeeee, the certificate speaks of"),
    (no_sidecar, "is no sidecar of a plan"),
]


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        establish(path, now=NOW, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [a_byte, other_weights, one_more, gone])
def test_changed_files_do_not_match_the_checksums(path: Path, change: Change) -> None:
    change(path)
    refused(path, "does not match its SHA256SUMS: engines/")


@pytest.mark.parametrize(("change", "message"), RENEWED_SUMS)
def test_renewed_checksums_do_not_match_the_certificate(
    path: Path, change: Change, message: str
) -> None:
    change(path)
    write_checksums(path)
    refused(path, message)
    refused(path, message, engine="torch", accept_unverified=REASON)


@pytest.mark.parametrize(("change", "message"), RENEWED_CERTIFICATE)
def test_a_renewed_certificate_does_not_match_itself(
    path: Path, change: Change, message: str
) -> None:
    change(path)
    recertified(path)
    refused(path, message)
    refused(path, message, engine="torch", accept_unverified=REASON)


@pytest.mark.parametrize(
    ("change", "message"),
    [(forged_sidecar, "weights of the model lie in it"), (a_weight, "its sidecar says")],
)
def test_a_plan_that_does_not_hold_what_everything_says(
    path: Path, change: Change, message: str
) -> None:
    name = row_of(path)["path"]
    change(path)
    recertified(path)
    assert establish(path, now=NOW).engine == "onnx"  # it is not opened
    refused(path, message, engine=name, accept_unverified=REASON)


def test_a_plan_that_was_not_gated_is_not_taken_by_itself(path: Path) -> None:
    for engine in ("auto", "onnx"):
        assert establish(path, engine=engine, now=NOW).engine == "onnx"
    remark = f"{row_of(path)['path']} is passed over: it has not passed the gate on a GPU"
    assert establish(path, now=NOW).remark == remark
    assert establish(path, engine="onnx", now=NOW).remark == ""
    assert establish(path, engine="torch", now=NOW).engine == "torch"
    assert establish(path, accept_unverified=REASON, now=NOW).engine == "onnx"


def test_it_is_taken_for_a_written_reason(path: Path) -> None:
    name = row_of(path)["path"]
    refused(path, rf"{name}: it has not passed the gate on a GPU", engine=name)
    for given in (name, str(path / name)):
        trust = establish(path, engine=given, accept_unverified=REASON, now=NOW)
        assert (trust.engine, trust.plan_file, trust.unverified) == ("plan", name, REASON)
    refused(path, "is not a plan that its certificate speaks of", engine="engines/other.plan")
    refused(release(), "is not a plan that its certificate speaks of", engine=name)


def test_a_plan_that_is_exchanged_after_it_was_checked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sidecar that fits: what is opened is held against what the checksums said."""

    def checked(*given: Any, **options: Any) -> Trust:
        trust = establish(*given, **options)
        other_weights(path)
        return trust

    monkeypatch.setattr("safediff.serve.pipeline.establish", checked)
    monkeypatch.setattr("safediff.export.open_plan.load_module", lambda kind: pytest.fail("opened"))
    known, name = sha256_file(plan_of(path)), row_of(path)["path"]
    with pytest.raises(UsageError, match=f"was checked as {known[:12]}") as caught:
        SafePipeline.from_release(path, engine=name, accept_unverified=REASON)
    assert "\n" not in str(caught.value)


@without_driver
def test_without_a_driver_it_is_not_served(path: Path) -> None:
    with pytest.raises(Inconclusive, match=r"can't open it here: .*driver"):
        SafePipeline.from_release(path, engine=row_of(path)["path"], accept_unverified=REASON)


@pytest.mark.parametrize(
    ("gate", "signed", "message"),
    [
        ({}, True, ""),
        ({}, False, "no checked signature covers the gate report on it"),
        ({"verdict": "fail"}, True, "it has not passed the gate on a GPU"),
        ({"bound_to": "00" * 32}, True, "it has not passed the gate on a GPU"),
        ({"policy_name": "other"}, True, "it has not passed the gate on a GPU"),
    ],
    ids=["passed", "unsigned", "failed", "on other bytes", "of another policy"],
)
def test_a_gate_report_counts_under_a_signature(
    path: Path, tmp_path: Path, gate: dict[str, str], signed: bool, message: str
) -> None:
    manifest = read_manifest(path)
    assert manifest is not None
    row = manifest["engines"][0]
    row["gate"] = passed_gate(row) | gate
    write_manifest(path, manifest)
    write_checksums(path)
    private, public = new_keys(tmp_path, "ours")
    sign_release(path, private)
    key = public if signed else None
    if message:
        refused(path, message, engine=row["path"], public_key=key)
        assert establish(path, public_key=key, now=NOW).engine == "onnx"
    else:
        trust = establish(path, engine=row["path"], public_key=key, now=NOW)
        assert (trust.engine, trust.unverified) == ("plan", "")


def test_an_entry_that_follows_no_schema(path: Path) -> None:
    certificate = json.loads((path / CERTIFICATE).read_text())
    certificate["engines"][0]["gate"] = "safe"
    (path / CERTIFICATE).write_text(dump_certificate(certificate))
    with pytest.raises(UsageError, match=r"is no certificate: engines\.0\.gate"):
        read_certificate(path / CERTIFICATE)


def test_a_plan_of_another_base_by_the_command_line(path: Path, here: Ran) -> None:
    another_base(path)
    recertified(path)
    for engine in ("auto", row_of(path)["path"]):
        line = said(here("serve", path, "--engine", engine), 2)
        assert "is a plan of base eeeeeeeeeeee, the certificate speaks of" in line


def test_by_the_command_line(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "out"
    done = here("export", release(), "--trt-rtx", "--target", "SM89", "--static", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out / row_of(out)['path']}: fp32, ")
    assert "not gated, so nothing is claimed of it" in done.stdout
    line = said(here("serve", out, "--engine", row_of(out)["path"]), 2)
    assert line.endswith(": it has not passed the gate on a GPU")
    line = said(here("export", out, "--plan", row_of(out)["path"]), 2)
    assert line.startswith("error: --plan: a plan that is there is gated, nothing else")
    line = said(here("export", release(), "--trt-rtx", "--target", "SM89", "--out", release()), 2)
    assert "is the release that is read" in line
