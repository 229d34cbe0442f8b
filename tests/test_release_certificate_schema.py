"""The published schema of certificates: current, strict, and followed by what is issued."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from audit_examples import read
from release_examples import ENGINE_FILE, WEIGHTS_FILE, make_evidence
from small_policy import finished, safediff

from safediff.errors import UsageError
from safediff.release.certificate import dump_certificate, issue_certificate
from safediff.release.certificate_schema import certificate_schema, read_certificate

PUBLISHED = Path(__file__).parents[1] / "docs" / "certificate.schema.json"
Json = dict[str, Any]


def validate(certificate: Json) -> None:
    jsonschema.validate(certificate, certificate_schema(), jsonschema.Draft202012Validator)


def made_up() -> Json:
    return issue_certificate(make_evidence(), [WEIGHTS_FILE, ENGINE_FILE])


def test_the_published_schema_is_current() -> None:
    assert json.loads(PUBLISHED.read_text("utf-8")) == certificate_schema(), (
        "run: safediff schema --certificate > docs/certificate.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(certificate_schema())
    done = safediff("schema", "--certificate")
    assert json.loads(done.stdout) == certificate_schema()
    assert safediff("schema", "--certificate", "--verdict").returncode == 2


def test_certificates_follow_it(tmp_path: Path) -> None:
    validate(read(finished().run.path / "release"))
    validate(made_up())
    path = tmp_path / "c.json"
    path.write_text(dump_certificate(made_up()), encoding="utf-8")
    assert read_certificate(path) == made_up()


BROKEN: dict[str, Callable[[Json], object]] = {
    "expires_at": lambda c: c.pop("expires_at"),
    "verdict": lambda c: c.update(verdict="safe"),
    "attacks": lambda c: c.pop("attacks"),
    "extra": lambda c: c.update(extra=1),
    "checks.0.threshold.op": lambda c: c["checks"][0]["threshold"].update(op="<"),
    "subject.0.sha256": lambda c: c["subject"][0].update(sha256="A1" * 32),
    "subject.1.path": lambda c: c["subject"][1].update(path="/etc/passwd"),
    "judges.0.sensitivity.value": lambda c: c["judges"][0].update(
        sensitivity={**c["judges"][0]["sensitivity"], "value": 1.5}
    ),
}


@pytest.mark.parametrize("where", BROKEN)
def test_what_does_not_follow_it_is_refused_by_schema_and_reader(
    where: str, tmp_path: Path
) -> None:
    certificate = copy.deepcopy(made_up())
    BROKEN[where](certificate)
    with pytest.raises(jsonschema.ValidationError):
        validate(certificate)
    path = tmp_path / "c.json"
    path.write_text(dump_certificate(certificate), encoding="utf-8")
    with pytest.raises(UsageError, match=f"is no certificate: {where}: "):
        read_certificate(path)
