"""Which texts an eraser hears: a prompt is held out only if it is none of them."""

from collections.abc import Iterator

from safediff.erase.closed_form.params import SpeedParams, UceParams
from safediff.erase.methods import EraserParams, settings_of
from safediff.erase.params import DistilParams
from safediff.policy.plan import Plan


def heard_texts(plan: Plan) -> frozenset[str]:
    """Texts, in lower case, that erasing by this plan reads.

    Kept texts and what erased ones are led to are among them, whether or not the settings give
    them a weight; of another package's eraser all that the plan gives it.
    """
    erase = plan.erase
    params = settings_of(erase)
    return frozenset(text.casefold() for text in (*_erased(plan, params), *erase.keep))


def _erased(plan: Plan, params: EraserParams) -> Iterator[str]:
    roles, guide = _roles(params)
    for concept in plan.concepts:
        if roles != {"phrasings"} or not concept.phrasings:
            yield from concept.erase
        if "phrasings" in roles:
            yield from (*concept.phrasings, *concept.toward)
    yield ", ".join(text for concept in plan.concepts for text in concept.erase)
    yield guide


def reads_phrasings(params: EraserParams) -> bool:
    """Does it hear the policy's phrasings, and so what is drawn instead of each?"""
    return "phrasings" in _roles(params)[0]


def _roles(params: EraserParams) -> tuple[set[str], str]:
    """In which form erased texts are read, and the text that all of them are led to."""
    if isinstance(params, DistilParams):
        roles: set[str] = {params.loss_text, params.rollout_text}
        return (roles | {"phrasings"} if params.warm_start else roles), ""
    if isinstance(params, UceParams):
        return {params.texts}, params.guide
    if isinstance(params, SpeedParams):
        return {params.texts}, params.anchor
    return {"erase", "phrasings"}, ""
