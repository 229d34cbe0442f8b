"""Kept prompts tell how often a judge sees what is not there; are they enough to prove anything?

One that names what is erased tells nothing of that and does not count: the base model may well show
it.
"""

from collections.abc import Iterable, Sequence

from safediff.gate.numbers import show
from safediff.policy.bounds import largest_provable_ratio, prompts_to_prove_ratio
from safediff.policy.plan import ConceptPlan, RetentionCheck, VerifyPlan


def erased_texts(concepts: Iterable[ConceptPlan]) -> tuple[str, ...]:
    """What no such prompt may name, case-folded."""
    return tuple(text.casefold() for concept in concepts for text in concept.erase)


def names_any(prompt: str, texts: Iterable[str]) -> bool:
    """Whether the prompt holds one of ``texts``, which are case-folded."""
    folded = prompt.casefold()
    return any(text in folded for text in texts)


def unprovable_specificity(concepts: Sequence[ConceptPlan], verify: VerifyPlan) -> str | None:
    """Why not even a judge without false alarms could be proven specific enough; None: it could.

    The bound is that of ``safediff.gate.clusters.clustered_rate`` where every picture passes. It
    counts prompts, not pictures, and is the same under either stopping rule.
    """
    minimum, confidence = verify.judge_min_specificity, verify.erasure.confidence
    if minimum == 1.0:
        return "no number of kept prompts proves a specificity of 1; 0.95 takes 59"
    count, num_naming = _count(concepts, verify.retention)
    best = largest_provable_ratio(count, confidence) if count else 0.0
    if best >= minimum:
        return None
    but = f", beside the {num_naming} that name what is erased" if num_naming else ""
    return (
        f"cannot be proven: no false alarm in {count} kept prompts bounds the judge's specificity "
        f"at {show(best, minimum)} (confidence {confidence:g}); judge.min_specificity {minimum:g} "
        f"takes {prompts_to_prove_ratio(minimum, confidence)} prompts{but}"
    )


def _count(concepts: Sequence[ConceptPlan], retention: Sequence[RetentionCheck]) -> tuple[int, int]:
    """Distinct kept prompts that count, and those that do not.

    Prompts that are fetched later all count: what they name is not known yet.
    """
    erased = erased_texts(concepts)
    prompts = {item.prompt for check in retention for item in check.prompts}
    naming = sum(names_any(prompt, erased) for prompt in prompts)
    fetched = sum(c.num_prompts for c in retention if c.hub_prompts and not c.prompts)
    return len(prompts) - naming + fetched, naming
