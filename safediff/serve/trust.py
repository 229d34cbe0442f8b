"""What must hold before anything of a release is opened: signature, checksums, certificate, engine.

An engine is trusted if the certificate lists its bytes, or the manifest holds a gate report on them
that passed. All of it is read from files; nothing is deserialised before it is established.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from safediff.errors import UsageError
from safediff.export.manifest import read_manifest
from safediff.export.to_onnx import DATA_NAME, MODEL_NAME, read_metadata
from safediff.gate.verdict import Verdict
from safediff.release.certificate import CERTIFICATE_NAME, KIND
from safediff.release.checksums import SIGNATURE_NAME, SUMS_NAME, sha256_file, verify_checksums
from safediff.release.signing import check_signature
from safediff.release.weights import TRANSFORMER_PATH, UNET_PATH, denoiser_folder

Json = dict[str, Any]
EngineChoice = Literal["auto", "onnx", "torch"]
ENGINE_CHOICES: tuple[EngineChoice, ...] = ("auto", "onnx", "torch")


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
        engine: ``auto`` takes the ONNX engine where it was gated, else the PyTorch weights.
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
    chosen, remark, unsure = _choose(path, certificate, engine, reason)
    doubt = doubt or unsure
    if doubt and not reason:
        raise UsageError(
            f"{path}: {doubt}",
            'verify and release it, or say why it is served anyway: --accept-unverified "reason"',
        )
    return Trust(
        path=path,
        certificate=certificate,
        certificate_sha256="none" if certificate is None else sha256_file(path / CERTIFICATE_NAME),
        release_sha256=sha256_file(path / SUMS_NAME),
        engine=chosen,
        unverified=reason if doubt else "",
        remark=remark,
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


def _choose(
    path: Path, certificate: Json | None, engine: EngineChoice, reason: str
) -> tuple[Literal["onnx", "torch"], str, str]:
    """The engine, a remark, and what speaks against it.

    Raises:
        UsageError: the engine is not there, or is none of this release.
    """
    folder = denoiser_folder(path)
    has_onnx = (folder / MODEL_NAME).exists()
    if engine == "onnx" and not has_onnx:
        raise UsageError(
            f"{path}: has no {folder.name}/{MODEL_NAME}", "export it, or use --engine torch"
        )
    if has_onnx and certificate is not None:
        _require_base(path, certificate)
    listed = {} if certificate is None else {r["path"]: r["sha256"] for r in certificate["subject"]}
    if engine != "torch" and has_onnx:
        if certificate is None or _gated(path, listed):
            return "onnx", "", ""
        what = f"{folder.name}/{MODEL_NAME} is not the engine that the certificate speaks of"
        if engine == "onnx" or (reason and _is_exported(path)):
            return "onnx", "", f"{what}, and no gate report on it passed"
        if not _is_exported(path):
            raise UsageError(
                f"{path}: {what}", "do not deploy it; get the release again from where it was made"
            )
        remark = f"{what}; serving the PyTorch weights, which it does speak of"
        return "torch", remark, _foreign_weights(path, certificate, listed)
    return "torch", "", _foreign_weights(path, certificate, listed)


def _foreign_weights(path: Path, certificate: Json | None, listed: Mapping[str, str]) -> str:
    name = UNET_PATH if (path / UNET_PATH).exists() else TRANSFORMER_PATH
    if certificate is None or listed.get(name) == sha256_file(path / name):
        return ""
    raise UsageError(
        f"{path}: {name} is not the file that the certificate speaks of",
        "do not deploy it; get the release again from where it was made",
    )


def _gated(path: Path, listed: Mapping[str, str]) -> bool:
    """Whether the certificate lists the engine's files, or a gate report on it passed."""
    folder = denoiser_folder(path)
    model, data = folder / MODEL_NAME, folder / DATA_NAME
    found = {f"{folder.name}/{p.name}": sha256_file(p) for p in (model, data)}
    if all(listed.get(name) == sha256 for name, sha256 in found.items()):
        return True
    for row in (read_manifest(path) or {"engines": []})["engines"]:
        gate = row["gate"]
        same = (row["sha256"], row["data_sha256"]) == tuple(found.values())
        if same and gate is not None and gate["bound_to"] == row["sha256"]:
            return bool(gate["verdict"] == Verdict.PASS.value)
    return False


def _is_exported(path: Path) -> bool:
    return read_manifest(path) is not None


def _require_base(path: Path, certificate: Json) -> None:
    """An engine says which base it was made from; older ones do not."""
    made_from = read_metadata(denoiser_folder(path) / MODEL_NAME).get("base_sha256")
    certified = certificate["base_model"]["sha256"].get("unet")
    if made_from is not None and made_from != certified:
        raise UsageError(
            f"{path}: its engine was made from base {made_from[:12]}, its certificate is about "
            f"base {str(certified)[:12]}",
            "do not deploy it; get the release again from where it was made",
        )
