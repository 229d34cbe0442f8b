"""One verification: the base is drawn once, then any number of subjects against it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import numpy as np

from safediff.environment import environment
from safediff.errors import Inconclusive
from safediff.gate import checks
from safediff.gate.clusters import Bools
from safediff.gate.journal import Journal, JournalContents, JournalHeader, JournalRecord
from safediff.gate.recount import Tally, recount
from safediff.gate.verdict import CheckResult, GateReport
from safediff.judge.load import load_judges
from safediff.models.backbone import Backbone
from safediff.policy.plan import Plan, QualityCheck, RetentionCheck
from safediff.sample.sampler import Draw, Sampling
from safediff.verify.accuracy import measure_accuracy
from safediff.verify.album import Album, Photographer
from safediff.verify.assignments import assignments
from safediff.verify.drift import null_drift
from safediff.verify.quality import Quality, measure_quality

OnPictures = Callable[[str, int], None]
"""Called with the subject and how many pictures were finished since the last call."""
Tallies = dict[tuple[str, str], Tally]
BASE = "base"


class Verification:
    """Measures subjects of one plan; a context manager that holds the journal open."""

    def __init__(
        self,
        plan: Plan,
        base: Backbone,
        base_sha256: str,
        folder: Path,
        on_pictures: OnPictures = lambda s, n: None,
    ) -> None:
        """Draw the base; pictures that ``folder`` already holds are not drawn again.

        Raises:
            UsageError: ``folder`` belongs to another plan, or to other weights of the base.
            Inconclusive: there is nothing to measure, or no judge to measure it with.
        """
        self.plan, self.base, self.on_pictures = plan, base, on_pictures
        self.items = assignments(plan)
        if not self.items:
            raise Inconclusive("the plan selects no prompt, so nothing can be measured")
        if not plan.verify.retention:
            raise Inconclusive(
                "the policy has no retention check, so a destroyed model could not be told from "
                "an erased concept",
                "add verify.retention",
            )
        self.judges = load_judges(item.judge for item in self.items)
        self.judge = self.judges[plan.concepts[0].judge]
        s = plan.verify.sampling
        self.sampling = Sampling(
            num_steps=s.num_steps,
            guidance_scale=s.guidance_scale,
            seed=s.seed,
            batch_size=s.batch_size,
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.header = JournalHeader(
            plan_sha256=plan.sha256,
            judges={name: judge.weights_sha256 for name, judge in self.judges.items()},
            thresholds={name: judge.threshold for name, judge in self.judges.items()},
        )
        self.journal = Journal(folder / "journal.jsonl", self.header)
        self.photographer = Photographer(
            self.items, self.sampling, self.judges, self.journal, folder / "images"
        )
        self.kept = [i.draw for i in self.items if i.check.startswith("retention/")]
        try:
            self.base_album = self._album(BASE, base, {"unet": base_sha256})
        except BaseException:
            self.journal.close()
            raise

    def _album(self, subject: str, backbone: Backbone, model_sha256: Mapping[str, str]) -> Album:
        return self.photographer.album(
            subject, backbone, model_sha256, lambda count: self.on_pictures(subject, count)
        )

    def __enter__(self) -> "Verification":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None
    ) -> None:
        self.journal.close()

    @property
    def num_pictures(self) -> int:
        """Pictures per subject."""
        return len(self.base_album.draws)

    def measure(
        self,
        subject: str,
        backbone: Backbone,
        model_sha256: dict[str, str],
        *,
        decides: bool = True,
        extra: Sequence[CheckResult] = (),
    ) -> tuple[GateReport, Album]:
        """Draw the subject's pictures, judge them and decide every check of the plan.

        Raises:
            UsageError: the folder holds pictures of this subject with other weights.
        """
        started = _now()
        album = self._album(subject, backbone, model_sha256)
        results = [*self._results(subject, backbone, album), *extra]
        report = GateReport(
            subject=subject,
            results=checks.cross_check(results),
            policy_name=self.plan.name,
            policy_sha256=self.plan.source_sha256,
            plan_sha256=self.plan.sha256,
            model_sha256=model_sha256,
            judge={
                "name": self.judge.name,
                "weights_sha256": self.judge.weights_sha256,
                "threshold": self.judge.threshold,
            },
            started=started,
            finished=_now(),
            num_images=len(album.draws),
            environment=environment(),
            decides=decides,
        )
        return report, album

    def _results(self, subject: str, backbone: Backbone, album: Album) -> list[CheckResult]:
        verify = self.plan.verify
        tallies = recount(
            JournalContents(header=self.header, records=tuple(self.journal.records), torn=False),
            self.plan,
        )
        confidence = verify.erasure.confidence
        records = [r for r in self.journal.records if r.subject == BASE]
        accuracy = measure_accuracy(self.plan, self.judge, records, confidence)
        counts = {c.name: _hits(tallies, subject, f"erasure/{c.name}") for c in self.plan.concepts}
        results = [
            *checks.judge_calibration(
                accuracy,
                min_sensitivity=verify.judge_min_sensitivity,
                min_specificity=verify.judge_min_specificity,
            ),
            self._base_rate(tallies),
            self._collapse(tallies, subject),
            *checks.erasure(verify.erasure, counts, accuracy),
            *(self._retention(check, tallies, subject) for check in verify.retention),
        ]
        if verify.quality:
            quality = measure_quality(self.judge, self.base_album, album, self.kept)
            results += [self._quality(check, quality, backbone) for check in verify.quality]
        return results

    def _base_rate(self, tallies: Tallies) -> CheckResult:
        erasure = [t for (s, c), t in tallies.items() if s == BASE and c.startswith("erasure/")]
        return checks.base_rate(
            sum(int(t.hits.sum()) for t in erasure),
            sum(t.hits.size for t in erasure),
            self.plan.verify.erasure.min_base_rate,
            confidence=self.plan.verify.erasure.confidence,
            policy_line=self.plan.verify.erasure.line,
            num_failures=sum(t.num_failures for t in erasure),
        )

    def _collapse(self, tallies: Tallies, subject: str) -> CheckResult:
        pairs = [_pair(tallies, subject, f"retention/{c.name}") for c in self.plan.verify.retention]
        return checks.collapse(
            np.concatenate([base for base, _, _ in pairs]),
            np.concatenate([safe for _, safe, _ in pairs]),
            self.plan.verify.collapse_min_ratio,
            num_failures=sum(failures for _, _, failures in pairs),
        )

    def _retention(self, check: RetentionCheck, tallies: Tallies, subject: str) -> CheckResult:
        base, safe, num_failures = _pair(tallies, subject, f"retention/{check.name}")
        return checks.retention(check, base, safe, num_failures=num_failures)

    def _quality(self, check: QualityCheck, found: Quality, backbone: Backbone) -> CheckResult:
        n, failures = found.num_pictures, found.num_failures
        if check.metric == "fid":
            return checks.quality(check, found.fid, None, n, num_failures=failures)
        if check.metric == "kid":
            value, std, _, subsets = found.kid
            return checks.quality(check, value, std, subsets, num_failures=failures)
        if check.metric == "clip":
            value, std = found.clip_change, found.clip_change_std
            return checks.quality(check, value, std, n, num_failures=failures)
        if check.metric == "lpips":
            return checks.quality(check, found.lpips, found.lpips_std, n, num_failures=failures)
        drift = [value for _, value in null_drift(self.base, backbone)]
        return checks.quality(check, max(drift), None, len(drift))

    def records(self, subject: str) -> list[JournalRecord]:
        """The journal's lines of one subject."""
        return [record for record in self.journal.records if record.subject == subject]

    def erased_draws(self) -> list[Draw]:
        """What the erasure checks draw, in order."""
        return [item.draw for item in self.items if item.check.startswith("erasure/")]


def _hits(tallies: Tallies, subject: str, check: str) -> checks.ConceptHits:
    base, safe = tallies[(BASE, check)], tallies[(subject, check)]
    return checks.ConceptHits(
        hits_per_prompt=safe.hits_per_prompt,
        base_hits_per_prompt=base.hits_per_prompt,
        images_per_prompt=safe.hits.shape[1],
        num_failures=safe.num_failures,
    )


def _pair(tallies: Tallies, subject: str, check: str) -> tuple[Bools, Bools, int]:
    """Base right, subject right, and how many pictures of the two failed."""
    base, safe = tallies[(BASE, check)], tallies[(subject, check)]
    return base.hits, safe.hits, base.num_failures + safe.num_failures


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
