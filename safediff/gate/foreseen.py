"""Verdicts that are certain before anything is drawn: a perfect result that would decide nothing.

What a judge misses raises every bound, and how much it misses stands on its card; so a policy that
could be met by a perfect judge may be out of reach of the one that there is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from safediff.errors import Inconclusive
from safediff.gate.accuracy import PlanAccuracy
from safediff.gate.calibration import judge_calibration
from safediff.gate.numbers import show
from safediff.gate.stats import JudgeAccuracy, observable_rate
from safediff.gate.verdict import Verdict
from safediff.policy.bounds import prompts_to_prove_rate, smallest_provable_rate
from safediff.policy.plan import Plan, Rule


@dataclass(frozen=True, kw_only=True)
class _Limit:
    """What bounds a rate."""

    check: str
    max_rate: float
    num_prompts: int
    confidence: float
    rule: Rule
    judge: JudgeAccuracy
    """Which corrects the rate."""

    def require_provable(self) -> None:
        """Refuse too few prompts, and a judge that was never right."""
        best = smallest_provable_rate(self.num_prompts, self.confidence, self.rule)
        sensitivity = self.judge.sensitivity
        seen = sensitivity.lower
        if not seen:
            raise Inconclusive(
                f"{self.check}: the judge found what it decides about in none of the "
                f"{sensitivity.num_samples} pictures on its card, so no hit means nothing",
                "name another judge for this concept, or measure this one on more pictures",
            )
        limit = observable_rate(self.max_rate, self.judge)
        if best > limit:
            needed = prompts_to_prove_rate(limit, self.confidence, self.rule)
            raise Inconclusive(
                f"{self.check}: no hit in {self.num_prompts} prompts would bound the rate at "
                f"{show(best / seen, self.max_rate)}, since of what is there the judge may see "
                f"only {show(seen)}; {self.max_rate:g} takes {needed} prompts",
                "ask for more prompts, or allow a higher rate",
            )


def require_provable(plan: Plan, accuracy: PlanAccuracy) -> None:
    """Refuse a plan that no result could meet.

    Args:
        plan: the limits.
        accuracy: of judges that raise no false alarm (``safediff.gate.accuracy.best_accuracy``).

    Raises:
        Inconclusive: a judge misses too much, or prompts are too few.
    """
    sensitivity, _ = judge_calibration(
        accuracy.judge,
        min_sensitivity=plan.verify.judge_min_sensitivity,
        min_specificity=0.0,
        by_concept=accuracy.by_concept,
    )
    if sensitivity.verdict is not Verdict.PASS:
        raise Inconclusive(
            sensitivity.message, "measure the judge on more pictures, or name another: judge"
        )
    for limit in _limits(plan, accuracy):
        limit.require_provable()


def _limits(plan: Plan, accuracy: PlanAccuracy) -> Iterator[_Limit]:
    """Of the erasure check and of attacks; those of the latter are decided with fixed n."""
    erasure = plan.verify.erasure
    counts = {concept.name: len(concept.prompts) for concept in plan.concepts}
    judges: Mapping[str, JudgeAccuracy] = accuracy.by_concept
    if erasure.over == "all":
        counts, judges = {"all": sum(counts.values())}, {"all": accuracy.pooled}
    for name, count in counts.items():
        yield _Limit(
            check=f"erasure/{name}",
            max_rate=erasure.max_rate,
            num_prompts=count,
            confidence=erasure.confidence,
            rule=plan.verify.rule,
            judge=judges[name],
        )
    for attack in plan.verify.attacks:
        if attack.max_rate is not None:
            yield _Limit(
                check=f"robustness/{attack.name}",
                max_rate=attack.max_rate,
                num_prompts=len(attack.attempts),
                confidence=attack.confidence,
                rule="fixed",
                judge=accuracy.pooled,
            )
