"""What must hold before anything of a release is opened: signature, checksums, certificate, engine.

An engine is trusted if the certificate lists its bytes, or a signature covers a gate report on them
that passed; whatever else is compiled must hold the certified weights. All of it is read from
files; nothing is run before it is established.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from safediff.errors import UsageError
from safediff.gate.verdict import Verdict
from safediff.release.certificate import CERTIFICATE_NAME, KIND
from safediff.release.checksums import (
    SIGNATURE_NAME,
    SUMS_NAME,
    read_sums,
    sha256_file,
    verify_checksums,
)
from safediff.release.signing import check_signature
from safediff.serve.certified import (
    EngineChoice,
    choose_engine,
    prove_compiled,
    require_certified,
)

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """A release that may be opened, and what may be said of it."""

    path: Path
    certificate: Json | None
    certificate_sha256: str
    """Of the certificate's file; ``none`` where there is none."""
    release_sha256: str
    """Of SHA256SUMS, so of every file."""
    engine: Literal["onnx", "torch"]
    unverified: str
    """The written reason for serving without a valid pass; empty where there is one."""
    remark: str
    """Why another engine was chosen than the one one might expect; mostly empty."""

    @property
    def verdict(self) -> str:
        """The certificate's, or ``none``."""
        return "none" if self.certificate is None else str(self.certificate["verdict"])

    @property
    def plan(self) -> Json:
        """The resolved policy; empty without a certificate."""
        return {} if self.certificate is None else dict(self.certificate["policy"]["resolved"])


def establish(
    path: Path,
    *,
    engine: EngineChoice = "auto",
    public_key: Path | None = None,
    accept_unverified: str | None = None,
    now: datetime | None = None,
) -> Trust:
    """Check a release; the returned ``Trust`` says which engine to open.

    Args:
        path: A release, or a folder of ``safediff export --full``.
        engine: ``auto`` takes the ONNX engine where it is trusted, else the PyTorch weights.
        public_key: Checks ``model.sig`` first.
        accept_unverified: The reason, in words, for serving what no valid certificate speaks for.
        now: For tests.

    Raises:
        UsageError: the folder was changed, or nothing shows that it meets its policy and no
            reason was given.
        Inconclusive: a file can't be read.
    """
    if public_key is not None:
        verify_signature(path, public_key)
    verify_checksums(path)
    reason = _reason(accept_unverified)
    certificate = _read_certificate(path)
    doubt = _doubt(certificate, now or datetime.now(UTC))
    sums = read_sums(path)
    if certificate is not None:
        require_certified(path, certificate, sums)
    signed = public_key is not None
    choice = choose_engine(path, certificate, sums, engine, signed=signed, reason=reason)
    doubt = doubt or choice.doubt
    if doubt and not reason:
        raise UsageError(
            f"{path}: {doubt}",
            "verify, release and sign it (--public-key), or say why it is served anyway: "
            '--accept-unverified "reason"',
        )
    if certificate is not None:
        prove_compiled(path, choice)
    return Trust(
        path=path,
        certificate=certificate,
        certificate_sha256="none" if certificate is None else sha256_file(path / CERTIFICATE_NAME),
        release_sha256=sha256_file(path / SUMS_NAME),
        engine=choice.engine,
        unverified=reason if doubt else "",
        remark=choice.remark,
    )


def verify_signature(path: Path, public_key: Path) -> None:
    """Check ``model.sig`` against a public key.

    Raises:
        UsageError: the signature is missing or does not fit files and key.
        Inconclusive: this installation can't check any.
    """
    if not (path / SIGNATURE_NAME).exists():
        raise UsageError(f"{path}: has no {SIGNATURE_NAME}", "sign it, or leave out --public-key")
    if found := check_signature(path, public_key):
        raise UsageError(f"{path}: {found}", "serve the release as it was signed")


def _reason(given: str | None) -> str:
    if given is None:
        return ""
    if len(given.split()) < 2:
        raise UsageError(
            f"--accept-unverified {given!r}: is no reason", "write a sentence; it is kept"
        )
    return " ".join(given.split())


def _read_certificate(path: Path) -> Json | None:
    file = path / CERTIFICATE_NAME
    if not file.exists():
        return None
    try:
        certificate: Json = json.loads(file.read_text(encoding="utf-8"))
        _ = certificate["verdict"], certificate["expires_at"], certificate["subject"]
        _ = certificate["policy"]["resolved"], certificate["base_model"]["sha256"]
        if certificate["kind"] != KIND:
            raise ValueError(f"kind {certificate['kind']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file}: not a readable certificate ({error})",
            "get the release again from where it was made",
        ) from error
    return certificate


def _doubt(certificate: Json | None, now: datetime) -> str:
    """Why a certificate does not speak for its release; empty where it does."""
    if certificate is None:
        return "has no certificate, so nothing shows that it meets a policy"
    if certificate["verdict"] != Verdict.PASS.value:
        return f"its certificate says {certificate['verdict']}, not pass"
    if datetime.fromisoformat(certificate["expires_at"]) < now:
        return f"its certificate expired on {certificate['expires_at'][:10]}"
    return ""
