"""Makes guards by the name that a policy gives."""

from collections.abc import Sequence

from safediff.errors import UsageError
from safediff.guard.base import Guard
from safediff.guard.negative import Negative
from safediff.guard.params import NegParams, SldParams, find_preset
from safediff.guard.sega import Sega
from safediff.guard.sld import Sld
from safediff.policy.plan import Plan


def planned_guard(plan: Plan) -> Guard | None:
    """The policy's own, if it names one."""
    return make_guard(plan.guard.name, plan.guard.texts) if plan.guard else None


def make_guard(name: str, texts: Sequence[str]) -> Guard:
    """The preset ``name`` against ``texts``.

    NEG and SLD join the texts to one branch, SEGA gives each its own.

    Raises:
        UsageError: there is no such preset, or no text.
    """
    params = find_preset(name)
    if not texts:
        raise UsageError(f"guard {name!r} has no text to steer away from", "give at least one")
    if isinstance(params, NegParams):
        return Negative(name=name, texts=tuple(texts), params=params)
    if isinstance(params, SldParams):
        return Sld(name=name, texts=tuple(texts), params=params)
    return Sega(name=name, texts=tuple(texts), params=params)
