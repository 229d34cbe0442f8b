"""A release that combines policies: every certificate must hold, and every one is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from release_examples import make_evidence
from serving_examples import base_folder, copy_of, release, resolved_plan
from starlette.testclient import TestClient
from tiny import tiny_backbone, tiny_engine

from safediff.errors import UsageError
from safediff.release.certificate import dump_certificate
from safediff.release.checksums import sha256_file, write_checksums
from safediff.release.layout import write_release
from safediff.serve.app import build_app
from safediff.serve.pipeline import SafePipeline
from safediff.serve.trust import establish

FIRST, SECOND = "safety-certificate.json", "policies/other/safety-certificate.json"


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write to it."""
    folder = tmp_path_factory.mktemp("combined")
    assert base_folder().is_dir()
    base = json.loads((release() / FIRST).read_text())["base_model"]

    def evidence(name: str) -> Any:
        policy = make_evidence().policy | {"name": name, "resolved": resolved_plan(name=name)}
        return make_evidence(policy=policy, base_model=base)

    words = folder / "words.json"
    words.write_text("{}")
    write_release(
        folder / "r",
        tiny_backbone(folder / "tokenizer"),
        evidence("first"),
        engine=tiny_engine(),
        extra_files={"policies/other/notes.json": words},
        more={SECOND: evidence("other")},
    )
    return folder / "r"


def test_every_certificate_is_named(combined: Path) -> None:
    hashes = [sha256_file(combined / name) for name in (FIRST, SECOND)]
    pipeline = SafePipeline.from_release(combined, num_threads=1)
    with TestClient(build_app(pipeline)) as client:
        answer = client.get("/healthz")
    assert answer.headers["X-Safediff-Certificate"] == ", ".join(hashes)
    assert answer.headers["X-Safediff-Verdict"] == "pass"
    assert answer.json()["certificate_sha256"] == ", ".join(hashes)
    assert answer.json()["policy"] == "first, other"


def change(combined: Path, path: Path, **changes: Any) -> Path:
    """The second certificate says something else; checksums renewed."""
    copy_of(combined, path)
    certificate = json.loads((path / SECOND).read_text()) | changes
    (path / SECOND).write_text(dump_certificate(certificate))
    write_checksums(path)
    return path


def test_each_of_them_must_hold(combined: Path, tmp_path: Path) -> None:
    failed = change(combined, tmp_path / "failed", verdict="fail")
    with pytest.raises(UsageError, match="its certificate of policy other says fail, not pass"):
        establish(failed)
    trust = establish(failed, accept_unverified="a trial without users")
    assert (trust.verdict, trust.unverified) == ("fail", "a trial without users")
    expired = change(combined, tmp_path / "old", expires_at="2026-11-25T00:00:00+00:00")
    with pytest.raises(UsageError, match="of policy other expired on 2026-11-25"):
        establish(expired)
    subject = json.loads((combined / SECOND).read_text())["subject"]
    subject[0]["sha256"] = "ab" * 32
    other = change(combined, tmp_path / "weights", subject=subject)
    with pytest.raises(UsageError, match="is not the file that the certificate speaks of"):
        establish(other)


def test_one_guard_is_served(combined: Path, tmp_path: Path) -> None:
    policy = json.loads((combined / SECOND).read_text())["policy"]
    policy["resolved"]["guard"] = {"name": "sld-max", "texts": ["axe"]}
    path = change(combined, tmp_path / "r", policy=policy)
    with pytest.raises(UsageError, match="were met behind different guards"):
        establish(path)
