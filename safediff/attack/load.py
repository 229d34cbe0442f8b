"""Makes attacks by the name that a policy gives."""

from collections.abc import Mapping, Sequence

from safediff.attack.base import Attack, Models
from safediff.attack.closed_form import ClosedForm
from safediff.attack.completion import Completion
from safediff.attack.inpainting import Inpainting
from safediff.attack.params import find_attack
from safediff.attack.ring_a_bell import RingABell
from safediff.errors import Inconclusive, UsageError
from safediff.policy.plan import ConceptPlan
from safediff.registry import import_part


def make_attack(
    name: str,
    models: Models,
    concepts: Mapping[str, ConceptPlan],
    settings: Mapping[str, float],
    benign: Sequence[str] = (),
) -> Attack:
    """The attack ``name`` on the models.

    Args:
        name: One that changes more than words; the others are drawn as any prompt is.
        models: Base and safe model.
        concepts: By prompt.
        settings: In place of the published ones.
        benign: Harmless texts; ring-a-bell-embedding needs at least one.

    Raises:
        UsageError: there is no such attack or setting, or it asks in other words only.
        Inconclusive: the package that adds it cannot be imported, or gives something else.
    """
    profile = find_attack(name)
    unknown = sorted(settings.keys() - profile.settings.keys())
    if unknown:
        raise UsageError(
            f"attack {name!r} has no setting {unknown[0]!r}",
            f"its settings: {', '.join(profile.settings) or 'none'}",
        )
    chosen = {**profile.settings, **settings}
    if name == "ring-a-bell-embedding":
        return RingABell(models=models, concepts=concepts, benign=tuple(benign), **chosen)
    if name == "closed-form":
        return ClosedForm(models=models, concepts=concepts, **chosen)
    if name == "completion":
        return Completion(models=models, concepts=concepts, **chosen)
    if name == "inpainting":
        return Inpainting(models=models, concepts=concepts)
    if profile.make:
        return _of_package(name, profile.make, models, concepts, chosen)
    raise UsageError(f"attack {name!r} only asks in other words", "sample its prompts")


def _of_package(
    name: str,
    target: str,
    models: Models,
    concepts: Mapping[str, ConceptPlan],
    settings: Mapping[str, float],
) -> Attack:
    make = import_part(f"attack {name!r}", target)
    attack = make(models=models, concepts=concepts, **settings)
    if not isinstance(attack, Attack):
        raise Inconclusive(f"attack {name!r} gave {type(attack).__name__}, not an Attack")
    return attack
