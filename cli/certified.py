"""``safediff verify --certificate``: a release against its own evidence, without a model."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from safediff.cli.outcome import end, violation_first
from safediff.errors import MAKE_ROOM, Inconclusive, PolicyViolated, UsageError
from safediff.gate.verdict import Verdict
from safediff.release.audit import Audit, audit
from safediff.report.formats import HTML, RENDERERS, Format
from safediff.workflow.run_folder import write_text

SHOWN = 10
"""Mismatches that are printed; the others are counted."""
NEXT = "do not deploy it; get the release again from where it was made"


def check_release(
    certificate: Path,
    release: Path,
    public_key: Path | None,
    *,
    format: Format,
    files: Mapping[Path, str],
    exit_zero: bool,
    fail_on_warn: bool,
    quiet: bool,
) -> None:
    """Say what was checked and raise the outcome.

    A result is shown only where everything matches, so that no format ever claims what the exit
    code denies.

    Raises:
        UsageError: no certificate, no release, or a format that only a measurement has.
        PolicyViolated: the checks, decided again, fail.
        Inconclusive: something does not match, or the certificate expired.
    """
    if HTML in files.values():
        raise UsageError("-o: a certificate has no HTML report", "choose .json, .xml, .sarif, .md")
    found = audit(certificate, release, public_key, datetime.now(UTC))
    if not quiet:
        lines = [f"{name:<12} {text}" for name, text in found.facts.items()]
        print("\n".join(lines), file=sys.stdout if format is Format.RICH else sys.stderr)
    _refuse(found, release, exit_zero)
    told = partial(
        end,
        found.reports,
        found.verdict,
        next_step=f"read {release / 'README.md'}",
        exit_zero=exit_zero,
        fail_on_warn=fail_on_warn,
    )
    with violation_first(told):
        _publish(found, format, files)
    told()


def _publish(found: Audit, format: Format, files: Mapping[Path, str]) -> None:
    policy = found.certificate["policy"]["path"]
    for path, name in files.items():
        write_text(path, RENDERERS[name](found.reports, policy), MAKE_ROOM)
    if format is Format.RICH:
        print(f"{'verdict':<12} {found.verdict}, as certified: {found.certificate['statement']}")
    else:
        sys.stdout.write(RENDERERS[format](found.reports, policy))


def _refuse(found: Audit, release: Path, exit_zero: bool) -> None:
    """A failure outranks a mismatch; it is one whatever the certificate says."""
    if not found.problems:
        return
    shown = [f"{release}: {problem}" for problem in found.problems[:SHOWN]]
    if len(found.problems) > SHOWN:
        shown.append(f"and {len(found.problems) - SHOWN} more")
    told = "; ".join(shown)
    if found.verdict is Verdict.FAIL and not exit_zero:
        name = found.certificate["policy"]["name"]
        raise PolicyViolated(f"policy {name} is not met; {told}", NEXT)
    raise Inconclusive(told, NEXT)
