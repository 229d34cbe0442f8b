"""What gate reports say of an engine, and what else is known of a release before it is opened.

Whoever can renew the checksums can write a gate report into the manifest, so that of an engine that
the certificate does not list one counts under a signature only.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from safediff.export.manifest import gates_of, read_manifest
from safediff.gate.verdict import Verdict
from safediff.release.engines import own_gate

Json = dict[str, Any]
UNSIGNED = "no checked signature covers the gate report on it"
PASSED = {verdict.value for verdict in Verdict if verdict.exit_code == 0}
"""What a gate may say of an engine that is served: warnings and waived checks are no failure."""


class Known(NamedTuple):
    """A release whose files are those of its checksums, and of its certificates."""

    path: Path
    certificates: Sequence[Json]
    """Empty: there is nothing to compare with."""
    sums: Mapping[str, str]
    signed: bool
    """Whether a signature over all files was checked."""
    today: date
    """UTC; a gate report counts through the last day of its waivers."""


class Gates(NamedTuple):
    """What gate reports say of one engine."""

    never: list[str]
    """Policies without one that passed."""
    last_day: date | None
    """Of the first waiver to run out that the others rest on, UTC."""

    def objection(self, known: Known, passed: str) -> str:
        """Why they do not count; empty where they do.

        Args:
            known: The release.
            passed: What is said where there is none, with a place for the policy.
        """
        if self.never:
            several = len(known.certificates) > 1
            return passed.format(of=f" of policy {self.never[0]}" if several else "")
        if self.last_day is not None and self.last_day < known.today:
            return f"a waiver of the gate report on it expired on {self.last_day}"
        return "" if known.signed else UNSIGNED


def gates_on(
    known: Known, certificates: Sequence[Json], model_sha256: str | None, data_sha256: str | None
) -> Gates:
    """Of each certificate's policy, on an engine of these very bytes."""
    manifest = read_manifest(known.path)
    passed = [
        gate
        for row in (manifest["engines"] if manifest else ())
        if (row["sha256"], row["data_sha256"]) == (model_sha256, data_sha256)
        for gate in gates_of(row)
        if gate["bound_to"] == row["sha256"] and gate["verdict"] in PASSED
    ]
    own = [(str(c["policy"].get("name")), own_gate(c, passed)) for c in certificates]
    days = [day for _, gate in own if gate is not None for day in _waiver_days(gate)]
    return Gates([name for name, gate in own if gate is None], min(days, default=None))


def _waiver_days(gate: Json) -> list[date]:
    """Last days of the waivers that a gate report rests on; its verdict only says ``warn``."""
    waived = [row for row in gate["results"] if row["verdict"] == Verdict.WAIVED.value]
    return [date.fromisoformat(row["details"]["waiver_expires"]) for row in waived]
