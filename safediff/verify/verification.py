"""One verification: the base is drawn once, then any number of subjects against it."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from safediff.environment import environment, package_identity
from safediff.errors import Inconclusive
from safediff.gate import checks
from safediff.gate.accuracy import PlanAccuracy, decided_by
from safediff.gate.counted import counted_checks, erasure_over_all
from safediff.gate.cut import with_count
from safediff.gate.journal import JournalContents, JournalHeader, JournalRecord, standing
from safediff.gate.recount import recount
from safediff.gate.sequential import Reason, Stop
from safediff.gate.stats import Estimate
from safediff.gate.stopping import (
    BASE,
    Order,
    Tallies,
    find_stops,
    stopping_rule,
    tallies_at,
)
from safediff.gate.verdict import CheckResult, GateReport
from safediff.gate.waiving import apply_waivers
from safediff.guard.base import Guard
from safediff.guard.load import planned_guard
from safediff.judge.base import Judge
from safediff.judge.load import judge_requests, load_judges
from safediff.models.backbone import Backbone
from safediff.models.parts_hash import PARTS, part_sha256, parts_sha256
from safediff.policy.plan import Plan, QualityCheck
from safediff.sample.sampler import Draw, Sampling
from safediff.sample.shards import ALONE, Shards
from safediff.verify.accuracy import measure_accuracy
from safediff.verify.album import Album, Photographer
from safediff.verify.assignments import assignments, distinct_draws, rows_of
from safediff.verify.attacks import AttackRange
from safediff.verify.drift import null_drift
from safediff.verify.ledger import Ledger
from safediff.verify.long_prompts import cut_prompts, cutting
from safediff.verify.picture_files import still_there
from safediff.verify.quality import QualityMeter, clip_settings
from safediff.verify.schedule import Schedule, draw_until_settled, drawing_order
from safediff.verify.sessions import begin_session, read_sessions

OnPictures = Callable[[str, int], None]
"""Called with the subject and how many pictures were finished since the last call."""


class Verification:
    """Measures subjects of one plan; a context manager that holds the journal open."""

    def __init__(
        self,
        plan: Plan,
        base: Backbone,
        base_sha256: str,
        folder: Path,
        on_pictures: OnPictures = lambda s, n: None,
        shards: Shards = ALONE,
    ) -> None:
        """Draw the base; pictures that ``folder`` already holds are not drawn again.

        Under the sequential rule only its kept pictures are drawn: they measure the judge before
        anything of a subject is looked at. Erased ones follow as subjects need them.

        Raises:
            UsageError: ``folder`` belongs to another plan, or to another base; a prompt of the
                policy is longer than a text encoder reads.
            Inconclusive: there is nothing to measure, or no judge to measure it with.
        """
        self.cut = cut_prompts(plan, base)
        self._sha256_of = cache(part_sha256)
        self.base_sha256 = {"unet": base_sha256, PARTS: parts_sha256(base, self._sha256_of)}
        base = cutting(base, self.cut)
        self.plan, self.base, self.on_pictures, self.shards = plan, base, on_pictures, shards
        self.items = assignments(plan)
        if not self.items:
            raise Inconclusive("the plan selects no prompt, so nothing can be measured")
        if not plan.verify.retention:
            raise Inconclusive(
                "the policy has no retention check, so a destroyed model could not be told from "
                "an erased concept",
                "add verify.retention",
            )
        self.judges = load_judges(judge_requests(plan))
        self.judge = self.judges[plan.concepts[0].judge]
        s = plan.verify.sampling
        self.sampling = Sampling(
            num_steps=s.num_steps,
            guidance_scale=s.guidance_scale,
            seed=s.seed,
            batch_size=s.batch_size,
            rows=rows_of(plan),
        )
        self.guard = planned_guard(plan)
        self.guards: dict[str, Guard | None] = {BASE: None}
        folder.mkdir(parents=True, exist_ok=True)
        self.order: Order | None = None
        if plan.verify.rule == "sequential":
            self.order = drawing_order(plan, self.items)
        self.header = JournalHeader(
            plan_sha256=plan.sha256,
            judges={name: judge.weights_sha256 for name, judge in self.judges.items()},
            thresholds={name: judge.threshold for name, judge in self.judges.items()},
            stopping=stopping_rule(self.order) if self.order else None,
        )
        if shards.leads:
            begin_session(folder, {**environment(), **package_identity()})
        self.journal = Ledger(folder, self.header, shards)
        self.folder = folder
        self.photographer = Photographer(
            self.items, self.sampling, self.judges, self.journal, folder / "images"
        )
        self.attacks = AttackRange(plan, base, self.base_sha256, self.photographer, on_pictures)
        self.drawn: dict[str, dict[Draw, None]] = {}
        self.looked_at: dict[str, list[JournalRecord]] = {}
        """Records by subject since its pictures were last looked at; none while it is drawn."""
        kept = distinct_draws([i for i in self.items if i.check.startswith("retention/")])
        try:
            opening = kept if self.order else distinct_draws(self.items)
            self._draw(BASE, base, self.base_sha256, opening)
            self.base_album = self._album(BASE)
        except BaseException:
            self.journal.close()
            raise
        self.quality = QualityMeter(
            *(plan.verify.quality, self.judge, self.base_album, kept, clip_settings(plan))
        )

    def _draw(
        self,
        subject: str,
        backbone: Backbone,
        model_sha256: Mapping[str, str],
        draws: Sequence[Draw],
    ) -> None:
        guard = self.guards.get(subject, self.guard)
        self.photographer.draw(
            subject,
            backbone,
            model_sha256,
            draws,
            lambda count: self.on_pictures(subject, count),
            guard,
        )
        self.drawn.setdefault(subject, {}).update(dict.fromkeys(draws))
        self.looked_at.pop(subject, None)

    def _album(self, subject: str) -> Album:
        """What was drawn of a subject; what is no longer there fails from now on."""
        records = self._journaled(subject)
        if self.shards.leads:  # the others decide nothing
            records = still_there(self.photographer.folder, records)
        self.looked_at[subject] = records
        return self.photographer.album(self.looked_at[subject], [*self.drawn[subject]])

    def __enter__(self) -> "Verification":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None
    ) -> None:
        self.journal.close()

    def measure(
        self,
        subject: str,
        backbone: Backbone,
        model_sha256: Mapping[str, str],
        *,
        decides: bool = True,
        extra: Sequence[CheckResult] = (),
        guard: Guard | None = None,
    ) -> tuple[GateReport, Album]:
        """Draw the subject's pictures, judge them and decide every check of the plan.

        ``model_sha256``: of the denoisers, by name; the hash of the other parts is added here.
        ``guard`` stands in for the plan's own.

        Raises:
            UsageError: the folder holds pictures of this subject with other weights, or other
                parts.
        """
        model_sha256 = {**model_sha256, PARTS: parts_sha256(backbone, self._sha256_of)}
        backbone = cutting(backbone, self.cut)
        if guard is not None:
            self.guards[subject] = guard
        stops = self._draw_all(subject, backbone, model_sha256)
        self.base_album = self.quality.base = self._album(BASE)
        album = self._album(subject)
        attacked: list[CheckResult] = []
        if decides:  # what does not decide is not attacked
            own = self.guards.get(subject, self.guard)
            accuracy = self._accuracy().pooled
            attacked = self.attacks.results(subject, backbone, model_sha256, own, accuracy)

        def decide() -> GateReport:
            measured = [*self._results(subject, backbone, album, stops), *attacked]
            asked = self._asked(subject)
            results = [with_count(r, asked.get(r.id, set()), self.cut) for r in measured]
            results += extra
            finished, drawn = _now(), read_sessions(self.folder)
            today = date.fromisoformat(finished[:10])
            return GateReport(
                subject=subject,
                results=apply_waivers(checks.cross_check(results), self.plan.waivers, today),
                policy_name=self.plan.name,
                policy_sha256=self.plan.source_sha256,
                plan_sha256=self.plan.sha256,
                model_sha256=model_sha256,
                judge=_facts(self.judge),
                judges=tuple(
                    {**_facts(judge), "checks": list(decided_by(self.plan, name))}
                    for name, judge in self.judges.items()
                ),
                started=drawn.started,
                finished=finished,
                num_images=len(album.draws) + self.attacks.num_pictures(subject),
                environment=drawn.environment,
                decides=decides,
            )

        return self._of_leader(subject, decide), album

    def _of_leader(self, subject: str, decide: Callable[[], GateReport]) -> GateReport:
        """The report that process 0 makes, in every process."""
        if self.shards.leads:
            report = decide()
            self.shards.agree(f"report on {subject}", report.to_json)
            return report
        return GateReport.from_json(self.shards.agree(f"report on {subject}", dict))

    def _draw_all(
        self, subject: str, backbone: Backbone, model_sha256: Mapping[str, str]
    ) -> dict[str, Stop] | None:
        """Draw what the checks need of a subject; under the sequential rule, find their stops."""
        self.drawn.pop(subject, None)
        if self.order is None:
            self._draw(subject, backbone, model_sha256, distinct_draws(self.items))
            return None
        plan, order, accuracy = self.plan, self.order, self._accuracy()

        def draw(batch: list[Draw]) -> None:
            # The base first: whoever finds a picture of the subject finds its pair.
            if lacking := [d for d in batch if d not in self.drawn[BASE]]:
                self._draw(BASE, self.base, self.base_sha256, lacking)
            self._draw(subject, backbone, model_sha256, batch)

        def look(asked: Mapping[str, int]) -> dict[str, Stop | None]:
            return self._agreed(
                lambda: find_stops(plan, order, self._tallies(subject), subject, accuracy, asked)
            )

        sampling = plan.verify.sampling
        round_size = sampling.batch_size * self.shards.count
        schedule = Schedule(order, sampling.images_per_prompt, round_size)
        stops = draw_until_settled(schedule, draw, look)
        if self.quality.checks:  # they compare all kept pictures
            draw([d for d in self.quality.draws if d not in self.drawn[subject]])
        return stops

    def _agreed(self, find: Callable[[], dict[str, Stop | None]]) -> dict[str, Stop | None]:
        """The stops that process 0 finds."""
        found = self.shards.agree("stops", find)
        return {name: None if stop is None else _stop(*stop) for name, stop in found.items()}

    def _accuracy(self) -> PlanAccuracy:
        confidence = self.plan.verify.erasure.confidence
        return measure_accuracy(self.plan, self.judges, self.records(BASE), confidence)

    def _tallies(self, subject: str) -> Tallies:
        """Counts of the base and the subject."""
        records = (*self.records(BASE), *self.records(subject))
        return recount(JournalContents(header=self.header, records=records, torn=False), self.plan)

    def _results(
        self, subject: str, backbone: Backbone, album: Album, stops: Mapping[str, Stop] | None
    ) -> list[CheckResult]:
        plan, tallies = self.plan, self._tallies(subject)
        if self.order and stops:
            per_prompt = plan.verify.sampling.images_per_prompt
            tallies = tallies_at(stops, self.order, tallies, subject, per_prompt)
        results = counted_checks(plan, tallies, subject, self._accuracy(), stops)
        if self.quality.checks:
            results += self.quality.results(album.only(self.quality.draws))
        drift = [check for check in plan.verify.quality if check.metric == "null_drift"]
        return results + [self._drift(check, backbone) for check in drift]

    def _drift(self, check: QualityCheck, backbone: Backbone) -> CheckResult:
        num_rows = self.sampling.num_rows(self.base)
        drift = [value for _, value in null_drift(self.base, backbone, num_rows=num_rows)]
        # ``max`` drops what is no number, unless it comes first
        worst = max(drift) if all(map(math.isfinite, drift)) else math.nan
        return checks.quality(check, worst, None, len(drift))

    def _asked(self, subject: str) -> dict[str, set[str]]:
        """The prompts that a subject was asked for each check."""
        found: dict[str, set[str]] = {}
        for item in self.items:
            if item.draw in self.drawn[subject]:
                found.setdefault(item.check, set()).add(item.draw.prompt)
        erased = (prompts for check, prompts in found.items() if check.startswith("erasure/"))
        attacked = {
            f"robustness/{attack.name}": {attempt.prompt for attempt in attack.attempts}
            for attack in self.plan.verify.attacks
        }
        return {"erasure/all": set[str]().union(*erased), **found, **attacked}

    def erasure_over_all(self, subject: str) -> CheckResult:
        """The rate of all concepts together, also where each of them has a limit of its own."""
        return erasure_over_all(self.plan, self._tallies(subject), subject, self._accuracy())

    def hits(self, subject: str) -> tuple[bool, ...]:
        """Of every erasure prompt, in order: whether its concept was seen in a picture of it."""
        tallies = self._tallies(subject)
        found = (tallies[(subject, f"erasure/{concept.name}")] for concept in self.plan.concepts)
        return tuple(bool(row.any()) for tally in found for row in tally.hits)

    def records(self, subject: str) -> list[JournalRecord]:
        """The journal's lines of one subject; pictures found gone are marked as ``missing``."""
        return self.looked_at.get(subject) or self._journaled(subject)

    def _journaled(self, subject: str) -> list[JournalRecord]:
        return [*standing(r for r in self.journal.records if r.subject == subject)]

    @property
    def kept(self) -> list[Draw]:
        """What the retention checks drew of every subject, in order."""
        return self._common("retention/")

    def erased_draws(self) -> list[Draw]:
        """What the erasure checks drew of every subject, in order."""
        return self._common("erasure/")

    def _common(self, kind: str) -> list[Draw]:
        return [
            item.draw
            for item in self.items
            if item.check.startswith(kind) and all(item.draw in d for d in self.drawn.values())
        ]


def _facts(judge: Judge) -> dict[str, Any]:
    return {
        "name": judge.name,
        "weights_sha256": judge.weights_sha256,
        "threshold": judge.threshold,
    }


def _stop(num_prompts: int, budget: int, reason: Reason, estimate: Sequence[Any] | None) -> Stop:
    return Stop(num_prompts, budget, reason, None if estimate is None else Estimate(*estimate))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
