"""Checks a certificate against its release: files, journal, every check, the verdict. No model.

Order: signature, files, journal, recount. Where the files are not those that were certified, the
journal is not the certified one either, so nothing is recounted and nothing is claimed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from safediff.errors import Inconclusive, UsageError
from safediff.export.manifest import MANIFEST_NAME, read_manifest
from safediff.gate.journal import read_journal
from safediff.gate.verdict import GateReport, Verdict
from safediff.release.certificate import CERTIFICATE_NAME, derived
from safediff.release.certificate_schema import read_certificate
from safediff.release.certified_files import (
    differing,
    foreign_graphs,
    model_files,
    uncertified_weights,
)
from safediff.release.checksums import SIGNATURE_NAME, mismatches, read_sums
from safediff.release.engines import (
    certificate_names,
    engine_problems,
    gate_problems,
    how_proved,
)
from safediff.release.replay import Replay, replay
from safediff.release.signing import check_signature
from safediff.release.weights import (
    PRECISIONS,
    TRANSFORMER_PATH,
    UNET_PATH,
    WEIGHTS_NAME,
    file_state_sha256,
)

Json = dict[str, Any]

PATCH_PATH = "patch.safetensors"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What came of it."""

    certificate: Json
    facts: dict[str, str]
    """What was checked, by topic, in order."""
    problems: tuple[str, ...]
    """What does not match; empty where everything does."""
    reports: tuple[GateReport, ...] = field(default=())
    """Decided again; none where the files do not match."""
    verdict: Verdict = Verdict.INCONCLUSIVE
    """Decided again; INCONCLUSIVE where nothing was."""


def audit(path: Path, release: Path, public_key: Path | None, now: datetime) -> Audit:
    """Check everything that can be checked without a model.

    Args:
        path: the certificate; the release holds the same one, maybe among others: a model that
            combines policies has one of each.
        release: the folder that it is about.
        public_key: of whoever signed it; None: a signature is not looked at.
        now: with time zone.

    Raises:
        UsageError: ``path`` is no certificate, or ``release`` no release.
        Inconclusive: a file can't be read, or the signing extra is missing.
    """
    certificate = read_certificate(path)
    facts = _about(certificate)
    problems = [*_signature(release, public_key, facts)]
    problems += _files(certificate, path, release, facts)
    if problems:
        return Audit(certificate=certificate, facts=facts, problems=tuple(problems))
    try:
        found = replay(certificate, read_journal(release / certificate["journal"]["path"]))
    except (UsageError, Inconclusive, KeyError, ValueError) as error:
        return Audit(certificate=certificate, facts=facts, problems=(f"journal: {error}",))
    facts["checks"] = _recounted(found)
    again = _derived_again(certificate, found.reports)
    problems += [*found.problems, *_not_following(certificate, again)]
    if datetime.fromisoformat(certificate["expires_at"]) < now:
        problems.append(f"the certificate expired at {certificate['expires_at']}")
    return Audit(
        certificate=certificate,
        facts=facts,
        problems=tuple(problems),
        reports=found.reports,
        verdict=Verdict(again["verdict"]),
    )


def _about(certificate: Json) -> dict[str, str]:
    policy, issued = certificate["policy"], certificate["issued_at"]
    name = f"policy {policy['name']} (sha256 {policy['sha256'][:12]})"
    return {"certificate": f"{name}, issued {issued}, valid until {certificate['expires_at']}"}


def _signature(release: Path, public_key: Path | None, facts: dict[str, str]) -> Iterator[str]:
    if public_key is None:
        signed = (release / SIGNATURE_NAME).exists()
        facts["signature"] = "not checked, give --public-key" if signed else "none"
        return
    problem = check_signature(release, public_key)
    facts["signature"] = problem or f"made with the private key of {public_key.name}"
    if problem:
        yield problem


def _files(certificate: Json, path: Path, release: Path, facts: dict[str, str]) -> Iterator[str]:
    """Files that are not those of SHA256SUMS, or not those of the certificate."""
    listed = read_sums(release)
    found = mismatches(release, listed)
    yield from found
    names = certificate_names(listed)
    same = [name for name in names if path.read_bytes() == _bytes(release / name)]
    if not same:
        yield f"{CERTIFICATE_NAME} of the release differs from {path}"
    elif others := [name for name in names if name not in same]:
        facts["further certificates"] = f"{', '.join(others)}: check each"
    certified = model_files(certificate)
    certified[certificate["journal"]["path"]] = certificate["journal"]["sha256"]
    if PATCH_PATH in listed:
        certified[PATCH_PATH] = certificate["modification"]["patch_sha256"]
    if not found:
        yield from differing(certified, listed)
        yield from uncertified_weights(certificate, listed)
        yield from foreign_graphs(certificate, listed)
        other = [*_weights(certificate, release)]
        yield from other or _certified_engines(certificate, release)
        yield from _added(certificate, release, listed, facts)
    facts["files"] = f"{len(listed)} listed, {len(certified)} of them by the certificate itself"


def _weights(certificate: Json, release: Path) -> Iterator[str]:
    """The weights in the file against those that the reports were measured on."""
    measured = [r for r in certificate["reports"] if r["decides"] and "unet" in r["model_sha256"]]
    for name in (UNET_PATH, TRANSFORMER_PATH):
        if not (release / name).exists() or not measured:
            continue
        try:
            shipped = file_state_sha256(release / name)
        except (OSError, ValueError, KeyError) as error:
            yield f"{name} cannot be read ({error})"
            continue
        for report in measured:
            if report["model_sha256"]["unet"] != shipped:
                yield f"{name} holds other weights than {report['subject']} was measured on"


def _certified_engines(certificate: Json, release: Path) -> Iterator[str]:
    """Engines that were compared and gated: whether their weights are the shipped ones, cast."""
    gated = {
        f"the report on {report['subject']}": report["model_sha256"]["engine"]
        for report in certificate["reports"]
        if report["decides"] and "engine" in report["model_sha256"]
    }
    for row in certificate["deployment_parity"]:
        artifact, precision = row["artifact"], row["precision"]
        path = release / artifact.partition("/")[0] / WEIGHTS_NAME
        if precision not in PRECISIONS or not path.exists():
            continue
        shipped = file_state_sha256(path, precision)
        said = {**gated, f"deployment_parity of {artifact}": row.get("weights_sha256")}
        for who, sha256 in said.items():
            if sha256 not in (None, shipped):
                yield (
                    f"{who} says weights {sha256[:12]}, the shipped ones in {precision} are "
                    f"{shipped[:12]}"
                )
        if row.get("weights") not in (None, how_proved(precision)):
            yield f"deployment_parity of {artifact}: weights says how no engine is proved"


def _added(
    certificate: Json, release: Path, listed: Mapping[str, str], facts: dict[str, str]
) -> Iterator[str]:
    """What was added later: by hash, then by its gate report and by the weights that lie in it."""
    problems = list(engine_problems(release, certificate, listed))
    if certificate["engines"]:
        problems += _gates(certificate, release)
    yield from problems
    if problems or not certificate["engines"]:
        return
    from safediff.release.proofs import prove_engines

    told = []
    for found, problem in prove_engines(release, certificate):
        if problem:
            yield problem
        else:
            told.append(found)
    facts["engines"] = "; ".join(told)


def _gates(certificate: Json, release: Path) -> Iterator[str]:
    """What the certificate says of gates on added engines, against the reports on these."""
    try:
        yield from gate_problems(certificate, read_manifest(release))
    except UsageError as error:
        yield str(error)
    except (KeyError, TypeError, AttributeError) as error:
        yield f"{MANIFEST_NAME}: not a readable manifest ({error!r})"


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _recounted(found: Replay) -> str:
    names = list(dict.fromkeys(found.redecided))
    text = f"{found.num_recounted} recounted from the journal"
    if names:
        text += f"; only the decision made again: {', '.join(names)}"
    return text


def _derived_again(certificate: Json, reports: Sequence[GateReport]) -> Json:
    """What follows from the reports; successes from elsewhere are taken as they are."""
    own = derived(certificate, reports, [])
    known = [row for row in certificate["counter_evidence"] if row not in own["counter_evidence"]]
    return derived(certificate, reports, known)


def _not_following(certificate: Json, again: Json) -> Iterator[str]:
    """Parts of the certificate that do not follow from its checks."""
    for name in ("verdict", "statement", "counts", "expires_at", "counter_evidence_note"):
        if certificate[name] != again[name]:
            said = f"{certificate[name]!r}, decided {again[name]!r}"
            yield f"{name} does not follow from the checks: {said}"
    for name in ("counter_evidence", "deployment_parity"):
        if certificate[name] != again[name]:
            yield f"{name} does not follow from the checks"
    if [_outcome(row) for row in certificate["attacks"]] != list(map(_outcome, again["attacks"])):
        yield "attacks does not follow from the checks"


def _outcome(attack: Json) -> Json:
    """Without the note, whose wording may change, and with rates that are equal if counts are."""
    success = {
        name: found and (found["successes"], found["attempts"])
        for name, found in attack["success"].items()
    }
    told = ("id", "subject", "access", "budget", "verdict")
    return {**{name: attack[name] for name in told}, "success": success}
