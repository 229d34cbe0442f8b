"""safediff-baseline.json: what an earlier verification found, prompt by prompt, to be committed.

Prompts stand in it as hashes only.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safediff.errors import UsageError
from safediff.gate.attempts import count_attempts, under
from safediff.gate.baseline import Baseline, Conditions, Measured, baseline_check
from safediff.gate.journal import JournalContents, read_journal
from safediff.gate.recount import recount
from safediff.gate.verdict import GateReport
from safediff.policy.judges import settings_beside_files
from safediff.policy.plan import Plan

Json = dict[str, Any]

KIND = "safediff-baseline"
SCHEMA_VERSION = 2
COMMAND = "safediff verify MODEL POLICY --baseline FILE --update-baseline"
OTHER_FILE = f"name another file, or move this one away; made by: {COMMAND}"
NOTE = "Generated; do not edit. Commit it, and look at the printed difference before you do."


class OutdatedBaseline(UsageError):
    """A baseline of safediff that this version can't read; measuring again may replace it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "measure it again with --update-baseline")


def measured_baseline(plan: Plan, reports: Sequence[GateReport], folder: Path) -> Baseline:
    """What a verification found, from its reports and its journal.

    Raises:
        UsageError: the journal in ``folder`` cannot be read.
    """
    journal = read_journal(folder / "journal.jsonl")
    deciding = [report for report in reports if report.decides]
    sampling = asdict(plan.verify.sampling)
    del sampling["batch_size"]  # changes no picture
    return Baseline(
        conditions=Conditions(
            sampling=sampling,
            judges=dict(journal.header.judges),
            thresholds=dict(journal.header.thresholds),
            judge_settings={
                judge.name: settings_beside_files(judge)
                for judge in plan.judges
                if judge.name in journal.header.judges
            },
            base_sha256=deciding[0].model_sha256["base"],
        ),
        subjects=tuple(
            Measured(report=report, hits=_hits(plan, journal, report.subject))
            for report in deciding
        ),
    )


def held_against(
    known: Baseline, plan: Plan, reports: Sequence[GateReport], folder: Path
) -> list[GateReport]:
    """The reports, each with a row that says whether it is worse than the baseline.

    Raises:
        UsageError: nothing in the baseline can be compared with them.
    """
    now = measured_baseline(plan, reports, folder)
    return [
        replace(report, results=(*report.results, row))
        if report.decides and (row := baseline_check(known, now, report.subject))
        else report
        for report in reports
    ]


def dump_baseline(baseline: Baseline) -> str:
    """JSON text with the note that it is generated."""
    data = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "generated": {
            "by": COMMAND,
            "on": datetime.now(UTC).date().isoformat(),
            "note": NOTE,
        },
        "conditions": asdict(baseline.conditions),
        "subjects": [
            {"report": measured.report.to_json(), "hits": measured.hits}
            for measured in baseline.subjects
        ],
    }
    return json.dumps(data, sort_keys=True, indent=1, allow_nan=False) + "\n"


def load_baseline(path: Path) -> Baseline:
    """Read what ``dump_baseline`` wrote.

    Raises:
        OutdatedBaseline: another version made it, or what it says does not agree.
        UsageError: the file is missing or is no baseline of safediff.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        next_step = "add --update-baseline to make one"
        raise UsageError(f"{path}: cannot be read ({error.strerror})", next_step) from error
    except ValueError as error:
        raise UsageError(f"{path}: is no JSON ({error})", OTHER_FILE) from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UsageError(f"{path}: is no baseline of safediff", OTHER_FILE)
    if data.get("schema_version") != SCHEMA_VERSION:
        raise OutdatedBaseline(
            f"{path}: baseline of version {data.get('schema_version')!r}, expected {SCHEMA_VERSION}"
        )
    try:
        return Baseline(
            conditions=Conditions(**data["conditions"]),
            subjects=tuple(
                Measured(report=GateReport.from_json(row["report"]), hits=row["hits"])
                for row in data["subjects"]
            ),
        )
    except UsageError as error:  # of one of its reports
        raise OutdatedBaseline(f"{path}: is no baseline of this version ({error})") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise OutdatedBaseline(f"{path}: is no baseline of this version ({error!r})") from error


def _hits(plan: Plan, journal: JournalContents, subject: str) -> dict[str, dict[str, int]]:
    """Of every check that counts prompts; the concepts under one bound together."""
    hits: dict[str, dict[str, int]] = {}
    for (who, check), tally in recount(journal, plan).items():
        if who != subject:
            continue
        rows = zip(tally.prompts, tally.hits_per_prompt, strict=True)
        found = {_key(check, prompt): count for prompt, count in rows}
        hits[check] = found
        if check.startswith("erasure/") and plan.verify.erasure.over == "all":
            hits.setdefault("erasure/all", {}).update(found)
    for attack in plan.verify.attacks:
        if any(record.subject == under(subject, attack.name) for record in journal.records):
            attempts = count_attempts(
                journal.records,
                plan,
                attack,
                subject,
                journal.header.thresholds,
                base_alike=attack.num_base_images == 0,
            )
            seen = zip(attack.attempts, attempts.total, strict=True)
            hits[f"robustness/{attack.name}"] = {
                _key(attempt.direct, attempt.prompt): int(hit) for attempt, hit in seen
            }
    return hits


def _key(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
