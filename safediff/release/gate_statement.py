"""gate.intoto.json: the verdict as an in-toto test-result v0.1 statement over the released files.

Over those that were measured: an engine that was exported anew since is none of them.
The predicate knows PASSED, WARNED and FAILED. It has no word for "could not be decided", so for
that there is no statement.
"""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from safediff.gate.verdict import Verdict
from safediff.release.certified_files import model_files
from safediff.release.guarded import guarded

Json = dict[str, Any]

STATEMENT_NAME = "gate.intoto.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"

_LISTS = {
    "passedTests": (Verdict.PASS,),
    "warnedTests": (Verdict.WARN, Verdict.WAIVED),
    "failedTests": (Verdict.FAIL, Verdict.INCONCLUSIVE),
}
"""A certificate that fails may hold undecided checks, too; they were not passed."""


def gate_statement(certificate: Json) -> Json | None:
    """The statement; None where the verdict is inconclusive."""
    if certificate["verdict"] == Verdict.INCONCLUSIVE:
        return None
    tests = {name: _tests(certificate, verdicts) for name, verdicts in _LISTS.items()}
    failed = certificate["verdict"] == Verdict.FAIL
    result = "FAILED" if failed else "WARNED" if tests["warnedTests"] else "PASSED"
    policy = certificate["policy"]
    guard = guarded(policy["resolved"])
    prompts = {row["id"]: row["sha256"] for row in certificate["prompt_sets"]}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_resource(*file) for file in model_files(certificate).items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": result,
            "configuration": [
                {
                    **_resource(PurePath(policy["path"]).name, policy["sha256"]),
                    **({"annotations": {"behind": guard.told}} if guard else {}),
                },
                *(_resource(f"prompts {name}", sha256) for name, sha256 in prompts.items()),
            ],
            **tests,
        },
    }


def dump_statement(statement: Json) -> str:
    """JSON text: same certificate, same bytes."""
    return json.dumps(statement, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _tests(certificate: Mapping[str, Any], verdicts: tuple[Verdict, ...]) -> list[str]:
    """Deciding checks by subject, and parity where it is what failed."""
    found = [
        f"{row['subject']}: {row['id']}"
        for row in certificate["checks"]
        if row["decides"] and row["gating"] and row["verdict"] in verdicts
    ]
    if Verdict.FAIL in verdicts:
        rows = certificate["deployment_parity"]
        found += [f"{row['artifact']}: parity" for row in rows if not row["passed"]]
    return found


def _resource(name: str, sha256: str) -> Json:
    return {"name": name, "digest": {"sha256": sha256}}
