"""What must hold before anything of a release is opened: signature, checksums, certificate, engine.

An engine is trusted if the certificate lists its bytes, or a signature covers a gate report on them
that passed, as every plan needs one; whatever else is compiled must hold the certified weights. All
of it is read from files; nothing is run before it is established.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

from safediff.errors import UsageError
from safediff.gate.verdict import Verdict
from safediff.guard.base import Guard
from safediff.policy.plan import Dtype
from safediff.release.certificate import KIND
from safediff.release.checksums import (
    SIGNATURE_NAME,
    SUMS_NAME,
    read_sums,
    sha256_file,
    verify_checksums,
)
from safediff.release.engines import certificate_names
from safediff.release.signing import check_signature
from safediff.release.stamps import Stamp, require_unchanged, stamps_of
from safediff.serve.certified import (
    Choice,
    EngineChoice,
    choose_engine,
    prove_compiled,
    require_certified,
)
from safediff.serve.gates import Known
from safediff.serve.settings import verified_settings

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """A release that may be opened, and what may be said of it."""

    path: Path
    certificates: tuple[Json, ...]
    """That of the folder first; a model that combines policies has one of each."""
    certificate_sha256: str
    """Of the certificates' files, with commas; ``none`` where there is none."""
    release_sha256: str
    """Of SHA256SUMS, so of every file."""
    engine: Literal["onnx", "torch", "plan"]
    plan_file: str
    """Path of the plan in the release; empty with another engine."""
    plan_sha256: str
    """What the plan's bytes were found to be; empty with another engine."""
    stamps: Mapping[str, Stamp]
    """Of all files, taken before the first of them was read."""
    doubts: tuple[str, ...]
    """All that spoke against it when it was opened; empty where a valid pass spoke for it."""
    reason: str
    """Why it may be served all the same, in words; empty where none was given."""
    expires_at: datetime | None
    """When the first certificate expires, or the first waiver of a gate report on the engine."""
    remark: str
    """Why another engine was chosen than the one one might expect; mostly empty."""

    @property
    def expired(self) -> bool:
        """Whether what spoke for it has expired by now."""
        return self.expires_at is not None and self.expires_at < datetime.now(UTC)

    @property
    def unverified(self) -> str:
        """The written reason for serving without a valid pass; empty where there is one."""
        return self.reason if self.doubts or self.expired else ""

    @property
    def holds(self) -> bool:
        """Whether pictures may be drawn now."""
        return bool(self.reason) or not self.expired

    def require_unchanged(self) -> None:
        """To be asked once everything is open: is it what was checked?

        Raises:
            UsageError: a file was changed or exchanged since.
        """
        require_unchanged(self.path, self.stamps)

    @property
    def verdict(self) -> str:
        """The certificates', ``pass`` where all say so; ``expired`` after that; or ``none``."""
        if not self.certificates:
            return "none"
        others = [c["verdict"] for c in self.certificates if c["verdict"] != Verdict.PASS.value]
        return str([*others, "expired" if self.expired else Verdict.PASS.value][0])

    @property
    def plan(self) -> Json:
        """The resolved policy, of several the first; empty without a certificate."""
        return dict(self.certificates[0]["policy"]["resolved"]) if self.certificates else {}

    @property
    def dtype(self) -> Dtype:
        """What the PyTorch weights were verified in."""
        found: Dtype = self.plan.get("model", {}).get("dtype", "float32")
        return found

    @property
    def policies(self) -> list[str]:
        """Names of the policies that were met."""
        return [str(c["policy"]["resolved"].get("name")) for c in self.certificates]


def establish(
    path: Path,
    *,
    engine: EngineChoice = "auto",
    provider: str | None = None,
    public_key: Path | None = None,
    accept_unverified: str | None = None,
    guard: Guard | None = None,
    unopened: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> Trust:
    """Check a release; the returned ``Trust`` says which engine to open.

    Args:
        path: A release, or a folder of ``safediff export --full``.
        engine: ``auto`` takes a plan where that may be (``plans``), else the ONNX engine where it
            is trusted, else the PyTorch weights; or the path of a plan in the release.
        provider: Of ONNX Runtime, which runs no plan: where one is given, ``auto`` takes none.
        public_key: Checks ``model.sig`` first.
        accept_unverified: The reason, in words, for serving what no valid certificate speaks for.
        guard: Takes the place of the policy's.
        unopened: Plans that were tried before, and why ``auto`` takes them no more.
        now: For tests.

    Raises:
        UsageError: the folder was changed, or nothing shows that it meets its policy and no
            reason was given.
        Inconclusive: a file can't be read.
    """
    stamps = stamps_of(path)
    if public_key is not None:
        verify_signature(path, public_key)
    verify_checksums(path)
    reason = _reason(accept_unverified)
    sums = read_sums(path)
    names = certificate_names(sums)
    certificates = tuple(_read_certificate(path / name) for name in names)
    now = now or datetime.now(UTC)
    known = Known(path, certificates, sums, signed=public_key is not None, today=now.date())
    doubts = [*_doubts(path, certificates, now), *_other_guard(certificates, guard)]
    for certificate in certificates:
        require_certified(path, certificate, sums)
    no_plan = _no_plan(doubts, provider)
    choice = choose_engine(known, engine, no_plan=no_plan, unopened=unopened or {})
    if choice.doubt:
        doubts.append(choice.doubt)
    if doubts and not reason:
        raise UsageError(
            f"{path}: {'; '.join(doubts)}",
            "verify, release and sign it (--public-key), or say why it is served anyway: "
            '--accept-unverified "reason"',
        )
    if certificates:
        prove_compiled(path, choice)
    return Trust(
        path=path,
        certificates=certificates,
        certificate_sha256=", ".join(sha256_file(path / name) for name in names) or "none",
        release_sha256=sha256_file(path / SUMS_NAME),
        engine=choice.engine,
        plan_file=choice.plan_file,
        plan_sha256=choice.plan_sha256,
        stamps=stamps,
        doubts=tuple(doubts),
        reason=reason,
        expires_at=_expiry(certificates, choice),
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


def _no_plan(doubts: Sequence[str], provider: str | None) -> str:
    """Why no plan is taken that was not named; empty where one may be."""
    if provider is not None:
        return f"{provider} was asked for, which does not run it"
    return doubts[0] if doubts else ""


def _reason(given: str | None) -> str:
    if given is None:
        return ""
    if len(given.split()) < 2:
        raise UsageError(
            f"--accept-unverified {given!r}: is no reason", "write a sentence; it is kept"
        )
    return " ".join(given.split())


def _read_certificate(file: Path) -> Json:
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


def _expiry(certificates: Sequence[Json], choice: Choice) -> datetime | None:
    ends = [_expires_at(certificate) for certificate in certificates]
    if choice.last_day is not None:
        ends.append(datetime.combine(choice.last_day + timedelta(days=1), time(), UTC))
    return min(ends, default=None)


def _expires_at(certificate: Json) -> datetime:
    return datetime.fromisoformat(certificate["expires_at"])


def _doubts(path: Path, certificates: Sequence[Json], now: datetime) -> Iterator[str]:
    """All that keeps certificates from speaking for their release."""
    if not certificates:
        yield "has no certificate, so nothing shows that it meets a policy"
        return
    guards = [certificate["policy"]["resolved"].get("guard") for certificate in certificates]
    if any(guard != guards[0] for guard in guards):
        raise UsageError(
            f"{path}: its policies were met behind different guards, and one can be served",
            "combine policies of one guard",
        )
    samplings = [verified_settings(c["policy"]["resolved"]) for c in certificates]
    if guards[0] is not None and len(set(samplings)) > 1:
        yield "its policies were met behind a guard with different steps or guidance"
    for certificate in certificates:
        its = "its certificate"
        if len(certificates) > 1:
            its = f"its certificate of policy {certificate['policy'].get('name')}"
        if certificate["verdict"] != Verdict.PASS.value:
            yield f"{its} says {certificate['verdict']}, not pass"
        if _expires_at(certificate) < now:
            yield f"{its} expired on {certificate['expires_at'][:10]}"


def _other_guard(certificates: Sequence[Json], guard: Guard | None) -> Iterator[str]:
    """Why they do not speak for pictures behind this guard."""
    if guard is None or not certificates:
        return
    plan = certificates[0]["policy"]["resolved"].get("guard")
    if plan is not None and (plan["name"], tuple(plan["texts"])) == (guard.name, guard.texts):
        return
    known = "no guard" if plan is None else f"guard {plan['name']}"
    same = plan is not None and plan["name"] == guard.name
    yield f"was verified with {known}, not with {guard.name}{' against other texts' * same}"
