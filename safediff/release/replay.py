"""Decide every check of a certificate again from its journal, without model, pictures or judge.

The plan comes from the certificate and its hash from the journal, so neither can be exchanged
alone. What a journal holds is recounted: calibration, base rate, collapse, erasure, retention,
attacks. Quality, parity and alignment were measured on pictures or noise predictions, so of them
only the decision is made again, from the number in the certificate.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any

from safediff.errors import Inconclusive
from safediff.gate import checks
from safediff.gate.accuracy import PlanAccuracy, Planted, count_accuracy
from safediff.gate.attempts import BASE, DIRECT, count_attempts, under
from safediff.gate.counted import counted_checks
from safediff.gate.journal import JournalContents, JournalRecord, standing
from safediff.gate.recount import recount
from safediff.gate.sequential import Stop
from safediff.gate.stopping import find_stops, read_order, tallies_at
from safediff.gate.verdict import CheckResult, GateReport
from safediff.gate.waiving import apply_waivers, unwaived
from safediff.policy.plan import Plan
from safediff.release.certificate import reports_in
from safediff.release.differing import differences, misdecided, missing
from safediff.sample.draw import Draw, seed_of
from safediff.verify.assignments import assignments, rows_of
from safediff.verify.schedule import drawing_order

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of it."""

    reports: tuple[GateReport, ...]
    """The certificate's, decided again."""
    num_recounted: int
    redecided: tuple[str, ...]
    """Ids of the checks of which only the decision was made again."""
    problems: tuple[str, ...] = field(default=())


def replay(certificate: Json, journal: JournalContents) -> Replay:
    """Recount everything that the journal holds and compare it with the certificate.

    Raises:
        UsageError: the certificate's plan or rows cannot be read, or the journal is of another
            plan or contradicts itself.
        Inconclusive: the journal holds too little to recount anything, or in another order.
    """
    plan = Plan.from_json(certificate["policy"]["resolved"], certificate["policy"]["path"])
    lines = journal.records
    journal = replace(journal, records=standing(lines))
    _check_order(plan, journal)
    problems = [*_premises(certificate, plan, journal)]
    planted, base_records = _planted(certificate, plan), _of(journal.records, BASE)
    thresholds, confidence = journal.header.thresholds, plan.verify.erasure.confidence
    accuracy = count_accuracy(plan, planted, thresholds, base_records, confidence)
    again, redecided, num_recounted = [], [], 0
    for report in reports_in(certificate):
        counted = _counted(plan, journal, report, accuracy)
        results, found = _settled(plan, report, counted)
        problems += [f"{report.subject}, {problem}" for problem in found]
        num_recounted += len(counted)
        redecided += [r.id for r in report.results if r.id not in counted]
        num_images = _num_pictures(plan, journal, report)
        if report.num_images not in (num_images, num_images + _num_again(plan, lines, report)):
            problems.append(
                f"{report.subject}: the journal holds {num_images} pictures, the certificate says "
                f"{report.num_images}"
            )
        again.append(replace(report, results=results))
    return Replay(
        reports=tuple(again),
        num_recounted=num_recounted,
        redecided=tuple(redecided),
        problems=tuple(problems),
    )


def _premises(certificate: Json, plan: Plan, journal: JournalContents) -> Iterator[str]:
    """What must hold before counting means anything."""
    header, sampling = journal.header, plan.verify.sampling
    seeds = {"seed": sampling.seed, "images_per_prompt": sampling.images_per_prompt}
    facts = {
        "policy.sha256": (certificate["policy"]["sha256"], plan.source_sha256),
        "policy.name": (certificate["policy"]["name"], plan.name),
        "policy.waivers": (
            certificate["policy"]["waivers"],
            [asdict(waiver) for waiver in plan.waivers],
        ),
        "seeds": (certificate["seeds"], seeds),
        "judges.weights_sha256": (
            {j["id"]: j["weights_sha256"] for j in certificate["judges"]},
            {name: header.judges.get(name) for name in _judge_names(certificate)},
        ),
        "judges.threshold": (
            {j["id"]: j["threshold"] for j in certificate["judges"]},
            {name: header.thresholds.get(name) for name in _judge_names(certificate)},
        ),
    }
    for name, (said, found) in facts.items():
        if said != found:
            yield f"{name} does not fit plan and journal"
    if journal.torn:
        yield "the journal's last line is incomplete"
    rows = rows_of(plan)
    wrong = sum(
        r.seed != seed_of(Draw(r.prompt, r.index), sampling.seed, rows) for r in journal.records
    )
    if wrong:
        yield f"{wrong} pictures of the journal have another seed than the plan gives them"


def _check_order(plan: Plan, journal: JournalContents) -> None:
    """Under the sequential rule, prompts count in the plan's order: chosen ones prove nothing."""
    expected = None
    if plan.verify.rule == "sequential":
        expected = drawing_order(plan, assignments(plan))
    stopping = journal.header.stopping
    if (read_order(stopping) if stopping else None) != expected:
        raise Inconclusive("its drawing order is not that of the plan")


def _planted(certificate: Json, plan: Plan) -> dict[str, Planted]:
    """What the certificate says of every judge that decides about a concept."""
    said = {judge["id"]: judge for judge in certificate["judges"]}
    found = {}
    for name in dict.fromkeys(concept.judge for concept in plan.concepts):
        if name not in said:
            raise Inconclusive(
                f"the certificate says nothing of judge {name}, so nothing can be recounted"
            )
        card, own = said[name]["sensitivity"], said[name].get("by_concept", {})
        concepts = [concept.name for concept in plan.concepts if concept.judge == name]
        if set(concepts) != own.keys():
            raise Inconclusive(
                f"the certificate does not say how well judge {name} sees each of its concepts, "
                "so nothing can be recounted"
            )
        found[name] = Planted(
            sensitivity=(card["hits"], card["n"]),
            by_concept={concept: (own[concept]["hits"], own[concept]["n"]) for concept in own},
        )
    return found


def _judge_names(certificate: Json) -> list[str]:
    return [judge["id"] for judge in certificate["judges"]]


def _of(records: Sequence[JournalRecord], subject: str) -> list[JournalRecord]:
    return [record for record in records if record.subject == subject]


def _counted(
    plan: Plan, journal: JournalContents, report: GateReport, accuracy: PlanAccuracy
) -> dict[str, CheckResult]:
    """Every check of one subject that the journal can decide, as if nothing else were known."""
    _check_complete(plan, journal, report.subject)
    tallies: Mapping[Any, Any] = recount(journal, plan)
    stops: Mapping[str, Stop] | None = None
    if journal.header.stopping is not None:
        order = read_order(journal.header.stopping)
        found = find_stops(plan, order, tallies, report.subject, accuracy)
        if undone := [name for name, stop in found.items() if stop is None]:
            raise Inconclusive(f"the journal ends before {undone[0]} of {report.subject} stopped")
        stops = {name: stop for name, stop in found.items() if stop is not None}
        per_prompt = plan.verify.sampling.images_per_prompt
        tallies = tallies_at(stops, order, tallies, report.subject, per_prompt)
    results = counted_checks(plan, tallies, report.subject, accuracy, stops)
    if report.decides:
        results += _attacked(plan, journal, report, accuracy)
    return {result.id: result for result in results}


def _check_complete(plan: Plan, journal: JournalContents, subject: str) -> None:
    """With fixed n, every picture of the plan must be there, failed ones included."""
    if journal.header.stopping is not None:
        return
    for who in (BASE, subject):
        there = {(r.check, r.prompt, r.index) for r in _of(journal.records, who)}
        asked = {(i.check, i.draw.prompt, i.draw.index) for i in assignments(plan)}
        if lacking := asked - there:
            raise Inconclusive(
                f"the journal lacks {len(lacking)} of {len(asked)} pictures of {who}"
            )


def _attacked(
    plan: Plan, journal: JournalContents, report: GateReport, accuracy: PlanAccuracy
) -> list[CheckResult]:
    """The attacks; one that could not be tried left no picture, and its row stays as it is."""
    certified = {result.id: result for result in report.results}
    rows = []
    for check in plan.verify.attacks:
        known = certified.get(f"robustness/{check.name}")
        budget = known.details if known else {}
        if not _of(journal.records, under(report.subject, check.name)):
            rows.append(checks.not_applicable(check, "the journal holds no try of it", budget))
            continue
        hits = count_attempts(
            journal.records,
            plan,
            check,
            report.subject,
            journal.header.thresholds,
            base_alike=check.num_base_images == 0,
        )
        rows.append(checks.robustness(check, hits, accuracy.pooled, budget))
    return rows


def _settled(
    plan: Plan, report: GateReport, counted: Mapping[str, CheckResult]
) -> tuple[tuple[CheckResult, ...], list[str]]:
    """The subject's results, decided again, and what the certificate says differently."""
    problems = [*missing(plan, report, counted)]
    results = []
    for certified in report.results:
        if certified.id in counted:
            results.append(counted[certified.id])
        else:
            plain = unwaived(certified)
            problems += misdecided(plan, plain)
            results.append(plain)
    today = date.fromisoformat(report.finished[:10])
    settled = apply_waivers(checks.cross_check(results), plan.waivers, today)
    for certified, found in zip(report.results, settled, strict=True):
        if certified.id in counted:
            problems += differences(certified, found)
        elif certified.verdict is not found.verdict:
            problems.append(f"{certified.id}: verdict {certified.verdict}, decided {found.verdict}")
    return settled, problems


def _num_pictures(plan: Plan, journal: JournalContents, report: GateReport) -> int:
    """Pictures of a subject, each once, and its pictures under attack."""
    plain = {(r.prompt, r.index) for r in _of(journal.records, report.subject)}
    return len(plain) + len(_attacked_lines(plan, journal.records, report))


def _num_again(plan: Plan, lines: Sequence[JournalRecord], report: GateReport) -> int:
    """Lost pictures under attack that were drawn again to the same bytes, by an earlier version.

    Their lines say nothing of a loss, and certificates counted them twice.
    """
    plain = [r.key for r in _attacked_lines(plan, lines, report) if r.replaces is None]
    return len(plain) - len(set(plain))


def _attacked_lines(
    plan: Plan, lines: Sequence[JournalRecord], report: GateReport
) -> list[JournalRecord]:
    """Those of a subject under attack; none where it does not decide."""
    if not report.decides:
        return []
    hows = (DIRECT, *(check.name for check in plan.verify.attacks))
    places = {under(report.subject, how) for how in hows}
    return [r for r in lines if r.subject in places]
