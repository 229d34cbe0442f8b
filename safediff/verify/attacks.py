"""A plan's attacks against one subject after another: pictures, journal lines, checks.

The pictures of each attack lie in a folder of their own and are filed under a subject of their own
(``teacher under completion``): no other check ever counts them. What is filed is not drawn again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from safediff.attack.alignment import measure_alignment
from safediff.attack.base import Attack, Models
from safediff.attack.load import make_attack
from safediff.attack.params import (
    ALIGNMENT_LATENTS,
    ALIGNMENT_STEPS,
    early_passes,
    effort,
    find_attack,
    unet_passes,
)
from safediff.gate import checks
from safediff.gate.attempts import (
    BASE,
    DIRECT,
    count_attempts,
    direct_record,
    first_pictures,
    under,
)
from safediff.gate.journal import JournalRecord, standing
from safediff.gate.stats import JudgeAccuracy
from safediff.gate.verdict import CheckResult
from safediff.guard.base import Guard
from safediff.models.backbone import Backbone
from safediff.policy.plan import AttackCheck, ConceptPlan, Plan, num_branches
from safediff.sample.sampler import Draw, Picture
from safediff.verify.album import Photographer
from safediff.verify.assignments import Assignment
from safediff.verify.picture_files import still_there

Weights = Mapping[str, str]
OnPictures = Callable[[str, int], None]


class AttackPhotographer(Photographer):
    """Files pictures of a model that an adversary meddles with."""

    def __init__(self, items: Sequence[Assignment], files: Photographer, attack: Attack) -> None:
        super().__init__(items, files.sampling, files.judges, files.journal, files.folder)
        self.attack = attack

    def pictures(
        self,
        backbone: Backbone,
        draws: Sequence[Draw],
        on_batch: Callable[[int], None],
        guard: Guard | None,
    ) -> Iterator[list[Picture]]:
        """The attack knows model and guard already."""
        return self.attack.pictures(draws, self.sampling, on_batch)


class AttackRange:
    """Attacks subjects of one verification."""

    def __init__(
        self,
        plan: Plan,
        base: Backbone,
        base_sha256: Weights,
        files: Photographer,
        on_pictures: OnPictures,
    ) -> None:
        self.plan, self.base, self.base_sha256 = plan, base, base_sha256
        self.files, self.on_pictures = files, on_pictures
        self.concepts = {concept.name: concept for concept in plan.concepts}

    def results(
        self,
        subject: str,
        backbone: Backbone,
        model_sha256: Weights,
        guard: Guard | None,
        accuracy: JudgeAccuracy,
    ) -> list[CheckResult]:
        """Draw what is missing and decide every attack; nothing for a plan without attacks.

        Raises:
            UsageError: pictures of other weights lie in the subject's place.
            Inconclusive: pictures cannot be written.
        """
        if not self.plan.verify.attacks:
            return []
        models = Models(base=self.base, safe=backbone, guard=guard)
        rows = [
            self._result(check, subject, models, model_sha256, accuracy)
            for check in self.plan.verify.attacks
        ]
        texts = [text for concept in self.plan.concepts for text in concept.erase]
        num_rows = self.files.sampling.num_rows(self.base)
        found = measure_alignment(self.base, backbone, texts, num_rows=num_rows)
        num_points = ALIGNMENT_LATENTS * ALIGNMENT_STEPS
        return [*rows, checks.alignment(found.drift, found.by_text, found.along, num_points)]

    def _result(
        self,
        check: AttackCheck,
        subject: str,
        models: Models,
        model_sha256: Weights,
        accuracy: JudgeAccuracy,
    ) -> CheckResult:
        budget = self._budget(check, models.guard)
        reason = self._attack(check, subject, models, model_sha256)
        if reason is not None:
            return checks.not_applicable(check, reason, budget)
        self._ask_directly(check, subject, models.safe, model_sha256, models.guard)
        self._ask_directly(check, BASE, self.base, self.base_sha256, None)
        alike = check.num_base_images == 0
        if not alike:
            on_base = Models(base=self.base, safe=self.base)
            self._attack(check, BASE, on_base, self.base_sha256)
        hits = count_attempts(
            self._still_there(check, subject),
            self.plan,
            check,
            subject,
            {name: judge.threshold for name, judge in self.files.judges.items()},
            base_alike=alike,
        )
        return checks.robustness(check, hits, accuracy, budget)

    def _still_there(self, check: AttackCheck, subject: str) -> list[JournalRecord]:
        """Records of the attempts; a picture that is gone counts as failed."""
        asked = {
            prompt for attempt in check.attempts for prompt in (attempt.prompt, attempt.direct)
        }
        places = {
            place
            for who in (subject, BASE)
            for place in (who, under(who, DIRECT), under(who, check.name))
        }
        counted = [
            record
            for record in standing(self.files.journal.records)
            if record.subject in places and record.prompt in asked and record.index == 0
        ]
        return still_there(self.files.folder, counted)

    def _attack(
        self, check: AttackCheck, subject: str, models: Models, model_sha256: Weights
    ) -> str | None:
        """Draw the attack; returns why it cannot be tried, if so."""
        items = [self._item(check.name, a.prompt, a.concept) for a in check.attempts]
        photographer = self._plain(items)
        if not find_attack(check.name).other_words:
            concepts = {a.prompt: self.concepts[a.concept] for a in check.attempts}
            attack = make_attack(
                check.name, models, concepts, check.settings, check.benign, self.files.judges
            )
            if reason := attack.obstacle():
                self.on_pictures(under(subject, check.name), len(items))
                return reason
            photographer = AttackPhotographer(items, self.files, attack)
        photographer.draw(
            under(subject, check.name),
            models.safe,
            model_sha256,
            [item.draw for item in items],
            lambda count: self.on_pictures(under(subject, check.name), count),
            models.guard,
        )
        return None

    def _ask_directly(
        self,
        check: AttackCheck,
        subject: str,
        backbone: Backbone,
        model_sha256: Weights,
        guard: Guard | None,
    ) -> None:
        """Draw the direct prompts that the erasure check stopped before."""
        found = first_pictures(self.files.journal.records)
        items = [
            self._item(DIRECT, prompt, concept)
            for prompt, concept in {a.direct: a.concept for a in check.attempts}.items()
            if direct_record(found, subject, concept, prompt) is None
        ]
        draws = [item.draw for item in items]
        if draws:
            place = under(subject, DIRECT)
            self._plain(items).draw(place, backbone, model_sha256, draws, guard=guard)

    def _plain(self, items: Sequence[Assignment]) -> Photographer:
        files = self.files
        return Photographer(items, files.sampling, files.judges, files.journal, files.folder)

    def _item(self, how: str, prompt: str, name: str) -> Assignment:
        concept: ConceptPlan = self.concepts[name]
        return Assignment(f"robustness/{how}", Draw(prompt), concept.labels, concept.judge)

    def _budget(self, check: AttackCheck, guard: Guard | None) -> dict[str, Any]:
        """What one attempt takes, its direct picture not counted, and what is spent before all."""
        profile, sampling = find_attack(check.name), self.plan.verify.sampling
        plain = num_branches(sampling.guidance_scale, self.base.distilled_guidance)
        num_concepts = len({attempt.concept for attempt in check.attempts})
        work = effort(check.name, check.settings, num_concepts)
        budget = {
            "access": profile.access,
            "source": profile.source,
            "generations_per_prompt": work.generations,
            "unet_passes_per_prompt": unet_passes(
                check.name,
                check.settings,
                sampling.num_steps,
                guard.num_branches if guard else plain,
                plain,
            ),
            **check.settings,
        }
        if beforehand := early_passes(
            check.name, check.settings, sampling.num_steps, num_concepts, plain
        ):
            budget["generations_beforehand"] = work.early_generations
            budget["unet_passes_beforehand"] = beforehand
        return budget

    def num_pictures(self, subject: str) -> int:
        """Pictures of the subject under attack that were judged."""
        places = {
            under(subject, how)
            for how in (DIRECT, *(check.name for check in self.plan.verify.attacks))
        }
        return sum(record.subject in places for record in standing(self.files.journal.records))
