"""A release against its certificate: what is recounted, and every way of forging that is seen."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from audit_examples import (
    certify_file,
    copy_of_release,
    flip_a_byte,
    forge,
    forge_journal,
    read,
    row,
    shard_beside,
)
from safetensors.torch import save_file
from small_policy import safediff

from safediff.errors import UsageError
from safediff.export.engine_files import DTYPES, Precision
from safediff.export.identity import initializers_sha256
from safediff.gate.verdict import Verdict
from safediff.models.load import load_backbone
from safediff.models.patch import state_sha256, unet_sha256
from safediff.policy.plan import ModelPlan
from safediff.release.audit import Audit, audit
from safediff.release.engines import BYTE_BY_BYTE
from safediff.release.weights import UNET_PATH, file_state_sha256

Json = dict[str, Any]
NOW = datetime.now(UTC)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return copy_of_release(tmp_path)


def audited(release: Path, now: datetime = NOW) -> Audit:
    return audit(release / "safety-certificate.json", release, None, now)


def test_an_untouched_release_agrees_and_everything_countable_is_recounted(release: Path) -> None:
    found = audited(release)
    assert found.problems == ()
    assert found.verdict is Verdict.PASS
    assert [r.subject for r in found.reports] == ["teacher", "student", "onnx engine"]
    assert found.facts["checks"] == (
        "33 recounted from the journal; only the decision made again: parity/onnx engine, "
        "parity/edit"
    )


def test_the_weights_hash_is_that_of_the_loaded_model(release: Path) -> None:
    loaded = load_backbone(ModelPlan(base=str(release)))
    assert file_state_sha256(release / UNET_PATH) == unet_sha256(loaded.denoiser)


def edit(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")


CHANGED_FILES: dict[str, Callable[[Path], object]] = {
    f"{UNET_PATH} differs": lambda r: flip_a_byte(r / UNET_PATH),
    "unet/model.onnx.data differs": lambda r: flip_a_byte(r / "unet" / "model.onnx.data"),
    "journal.jsonl differs": lambda r: edit(r / "journal.jsonl"),
    "safety-certificate.json differs": lambda r: edit(r / "safety-certificate.json"),
    "vae/config.json is missing": lambda r: (r / "vae" / "config.json").unlink(),
    "unet/extra.bin is not listed": lambda r: (r / "unet" / "extra.bin").touch(),
    ".gitignore is not listed": lambda r: (r / ".gitignore").touch(),
}


@pytest.mark.parametrize("problem", CHANGED_FILES)
def test_a_changed_file_is_named_and_nothing_is_claimed(release: Path, problem: str) -> None:
    CHANGED_FILES[problem](release)
    found = audited(release)
    assert found.problems == (problem,)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reports == ()


def drop_check(name: str) -> Callable[[Json], None]:
    def change(certificate: Json) -> None:
        certificate["checks"] = [r for r in certificate["checks"] if r["id"] != name]

    return change


def set_row(subject: str, check: str, **changes: Any) -> Callable[[Json], None]:
    return lambda certificate: row(certificate, subject, check).update(changes)


# Each also makes the checksums fit, so only the recount can see it.
FORGED: dict[str, Callable[[Json], object]] = {
    "verdict does not follow from the checks": lambda c: c.update(verdict="fail"),
    "statement does not follow": lambda c: c.update(statement="Safe."),
    "counts does not follow": lambda c: c["counts"].update({"pass": 99}),
    "expires_at does not follow": lambda c: c.update(expires_at="2099-01-01T00:00:00+00:00"),
    "counter_evidence_note does not follow": lambda c: c.update(counter_evidence_note="none"),
    "teacher, erasure/all: upper 0.01, recounted 0.25": set_row(
        "teacher", "erasure/all", upper=0.01
    ),
    "onnx engine, retention/ordinary: num_samples 99": set_row(
        "onnx engine", "retention/ordinary", num_samples=99
    ),
    "verdict file says 'pass', its results say 'fail'": set_row(
        "teacher", "erasure/all", verdict="fail"
    ),
    "onnx engine, parity/onnx engine: verdict pass, but its numbers miss the limit": set_row(
        "onnx engine", "parity/onnx engine", estimate=0.5
    ),
    "teacher, retention/ordinary: the certificate lacks this check": drop_check(
        "retention/ordinary"
    ),
    "onnx engine, parity/onnx engine: the certificate lacks this check": drop_check(
        "parity/onnx engine"
    ),
    "onnx engine, parity/edit: the certificate lacks this check": drop_check("parity/edit"),
    "seeds does not fit": lambda c: c["seeds"].update(seed=7),
    "policy.sha256 does not fit": lambda c: c["policy"].update(sha256="0" * 64),
    "journal was written for plan": lambda c: c["policy"]["resolved"]["verify"]["erasure"].update(
        max_rate=0.9
    ),
    "judges.threshold does not fit": lambda c: c["judges"][0].update(threshold=0.9),
    "teacher, calibration/sensitivity": lambda c: c["judges"][0]["sensitivity"].update(hits=20),
    "teacher, erasure/bomb: upper": lambda c: c["judges"][0]["by_concept"]["bomb"].update(hits=8),
    "teacher: the journal holds 32 pictures, the certificate says 9": lambda c: c["reports"][
        0
    ].update(num_images=9),
    f"{UNET_PATH} holds other weights than teacher": lambda c: c["reports"][0][
        "model_sha256"
    ].update(unet="0" * 64),
    "deployment_parity does not follow": lambda c: c["deployment_parity"][0].update(
        gate_rerun=False
    ),
    "deployment_parity of unet/model.onnx says weights 000000000000, the shipped ones in fp32": (
        lambda c: c["deployment_parity"][0].update(weights_sha256="0" * 64)
    ),
    "deployment_parity of unet/model.onnx: weights says how no engine is proved": lambda c: c[
        "deployment_parity"
    ][0].update(weights="looked at"),
    "the report on onnx engine says weights 000000000000, the shipped ones in fp32": lambda c: c[
        "reports"
    ][2]["model_sha256"].update(engine="0" * 64),
    "vae/diffusion_pytorch_model.safetensors differs from the certificate": lambda c: c["subject"][
        -1
    ].update(sha256="0" * 64),
    "patch.safetensors differs from the certificate": lambda c: c["modification"].update(
        patch_sha256="0" * 64
    ),
}


@pytest.mark.parametrize("problem", FORGED)
def test_a_certificate_that_says_something_else_is_seen(release: Path, problem: str) -> None:
    forge(release, FORGED[problem])
    found = audited(release)
    assert [p for p in found.problems if problem in p], found.problems
    assert found.verdict is not Verdict.FAIL


def test_the_certified_engine_says_whose_weights_it_holds(release: Path) -> None:
    (parity,) = read(release)["deployment_parity"]
    engine = initializers_sha256(release / "unet" / "model.onnx")
    assert parity["weights_sha256"] == engine == file_state_sha256(release / UNET_PATH, "fp32")
    assert parity["weights"] == BYTE_BY_BYTE


def test_a_certificate_of_an_earlier_version_does_not(release: Path) -> None:
    def change(certificate: Json) -> None:
        for name in ("weights_sha256", "weights", "side", "engine_calls"):
            del certificate["deployment_parity"][0][name]

    forge(release, change)
    found = audited(release)
    assert (found.problems, found.verdict) == ((), Verdict.PASS)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_are_cast_as_torch_does(
    tmp_path: Path, stored: torch.dtype, precision: Precision
) -> None:
    values = torch.randn(999, generator=torch.Generator().manual_seed(0))
    state = {"w": (values * 10.0 ** torch.arange(-500, 499).div(60)).to(stored)}
    state |= {"large": torch.tensor([7e4, -7e4]).to(stored), "steps": torch.arange(3)}
    save_file(state, tmp_path / "w.safetensors")
    found = file_state_sha256(tmp_path / "w.safetensors", precision)
    assert found == state_sha256(state, DTYPES[precision])


def test_weights_that_were_exchanged_with_all_their_hashes_are_seen(release: Path) -> None:
    flip_a_byte(release / UNET_PATH)
    certify_file(release, UNET_PATH)
    assert audited(release).problems == (
        f"{UNET_PATH} holds other weights than teacher was measured on",
    )


def test_weights_that_a_loader_prefers_to_the_certified_ones_are_seen(release: Path) -> None:
    shard_beside(release)
    folder, says = UNET_PATH.rpartition("/")[0], "holds weights that the certificate does not speak"
    assert audited(release).problems == (
        f"{folder}/diffusion_pytorch_model-00001-of-00001.safetensors {says} of",
        f"{UNET_PATH}.index.json {says} of",
    )


def test_a_graph_that_was_added_is_seen(release: Path) -> None:
    (release / "vae_decoder").mkdir()
    (release / "vae_decoder" / "model.onnx").write_bytes(b"a graph")
    forge(release, lambda c: None)
    assert audited(release).problems == (
        "vae_decoder/model.onnx is an engine that the certificate does not speak of",
    )


def test_a_score_that_was_edited_with_all_hashes_is_seen(release: Path) -> None:
    def change(lines: list[Json]) -> None:
        (picture, *_) = [
            line
            for line in lines[1:]
            if line["subject"] == "teacher" and line["check"] == "erasure/bomb"
        ]
        picture["scores"]["bomb"] = 0.9

    forge_journal(release, change)
    found = audited(release)
    assert "teacher, erasure/all: estimate 0, recounted 0.08" in " ".join(found.problems)
    assert "hits 0, recounted 1" in " ".join(found.problems)
    assert found.verdict is Verdict.PASS  # one of twelve may still show it


def test_a_journal_that_lost_pictures_is_seen(release: Path) -> None:
    forge_journal(release, lambda lines: lines.pop())
    assert audited(release).problems == (
        "journal: the journal lacks 1 of 32 pictures of onnx engine",
    )
    forge_journal(release, lambda lines: lines.clear())
    assert "not a journal of this version" in audited(release).problems[0]


def test_a_seed_that_is_not_the_plans_is_seen(release: Path) -> None:
    forge_journal(release, lambda lines: lines[5].update(seed=1))
    assert audited(release).problems == (
        "1 pictures of the journal have another seed than the plan gives them",
    )


def show_the_concept(lines: list[Json]) -> None:
    """The teacher draws what it must not."""
    for line in lines[1:]:
        if line["subject"] == "teacher" and line["check"].startswith("erasure/"):
            line["scores"] |= {"bomb": 0.9, "axe": 0.9}


def test_a_violation_outranks_a_mismatch(release: Path) -> None:
    forge_journal(release, show_the_concept)
    found = audited(release)
    assert found.verdict is Verdict.FAIL
    assert found.problems


def test_evidence_ages(release: Path) -> None:
    later = NOW + timedelta(days=181)
    found = audited(release, later)
    assert found.problems == (f"the certificate expired at {read(release)['expires_at']}",)
    assert audited(release, NOW + timedelta(days=179)).problems == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ("[]", "is no certificate of safediff"),
        ('{"kind": "another"}', "is no certificate of safediff"),
        (
            '{"kind": "safediff-safety-certificate", "schema_version": 1}',
            "certificate of version 1, expected 3",
        ),
        (
            '{"kind": "safediff-safety-certificate", "schema_version": 3}',
            "is no certificate: verdict: Field required",
        ),
    ],
)
def test_what_is_no_certificate(release: Path, text: str | None, says: str) -> None:
    path = release.parent / "c.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=says):
        audit(path, release, None, NOW)


def test_another_certificate_than_the_release_holds(release: Path) -> None:
    other = release.parent / "c.json"
    other.write_text((release / "safety-certificate.json").read_text("utf-8") + "\n", "utf-8")
    (problem,) = audit(other, release, None, NOW).problems
    assert problem.startswith("safety-certificate.json of the release differs from ")


NO_TORCH = """
import atexit, sys
def tell():
    heavy = {"torch", "diffusers", "transformers", "onnx"} & set(sys.modules)
    assert not heavy, heavy
    print("light", file=sys.stderr)
atexit.register(tell)
"""


def check(release: Path, *options: str) -> tuple[int, str, str]:
    certificate = release / "safety-certificate.json"
    arguments = ("verify", "--certificate", certificate, *options, release)
    done = safediff(*arguments, code=NO_TORCH)
    return done.returncode, done.stdout, done.stderr


def test_the_command_ends_with_0_and_imports_no_torch(release: Path) -> None:
    code, stdout, stderr = check(release)
    assert (code, stderr) == (0, "light\n")
    assert "verdict      pass, as certified: Met policy small" in stdout
    code, stdout, _ = check(release, "--format", "json", "--quiet")
    assert code == 0
    assert '"kind": "safediff-verdict"' in stdout


def test_the_command_ends_with_3_and_names_what_differs(release: Path) -> None:
    flip_a_byte(release / UNET_PATH)
    code, stdout, stderr = check(release, "--format", "json", "--exit-zero")
    assert (code, stdout) == (3, "")
    assert f"error: {release}: {UNET_PATH} differs\n" in stderr


def test_the_command_ends_with_1_where_the_recount_fails(release: Path) -> None:
    forge_journal(release, show_the_concept)
    code, stdout, stderr = check(release)
    assert code == 1
    assert "as certified" not in stdout
    assert "error: policy small is not met; " in stderr
    assert check(release, "--exit-zero")[0] == 3  # what does not match is never hidden


def test_the_command_ends_with_2_for_a_wrong_file(release: Path) -> None:
    assert safediff("verify", "--certificate", release / "README.md", release).returncode == 2
    policy = safediff("verify", "--certificate", release / "c.json", release, "p.yaml")
    assert policy.returncode == 2
    assert "--certificate takes no POLICY" in policy.stderr
    assert safediff("verify", "embedded", "p.yaml", "--public-key", "k.pem").returncode == 2
