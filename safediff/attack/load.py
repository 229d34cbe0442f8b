"""Makes attacks by the name that a policy gives."""

from collections.abc import Mapping, Sequence
from typing import Any

from safediff.attack.base import Attack, Models
from safediff.attack.classifier_guidance import ClassifierGuidance
from safediff.attack.closed_form import ClosedForm
from safediff.attack.completion import Completion
from safediff.attack.fine_tuning import FineTuning
from safediff.attack.inpainting import Inpainting
from safediff.attack.noise import Noise
from safediff.attack.params import find_attack
from safediff.attack.ring_a_bell import RingABell
from safediff.attack.ring_a_bell_search import RingABellSearch
from safediff.attack.textual_inversion import TextualInversion
from safediff.attack.unlearn_diff_atk import UnlearnDiffAtk
from safediff.errors import Inconclusive, UsageError
from safediff.judge.base import Judge
from safediff.policy.content import first_refused
from safediff.policy.plan import ConceptPlan
from safediff.registry import import_part

CLASSES: Mapping[str, type[Attack]] = {
    "ring-a-bell-embedding": RingABell,
    "closed-form": ClosedForm,
    "completion": Completion,
    "inpainting": Inpainting,
    "unlearn-diff-atk": UnlearnDiffAtk,
    "textual-inversion": TextualInversion,
    "ring-a-bell": RingABellSearch,
    "noise": Noise,
    "classifier-guidance": ClassifierGuidance,
    "fine-tuning": FineTuning,
}
"""Of attacks that do more than ask in other words; their fields are named like the settings."""


def make_attack(
    name: str,
    models: Models,
    concepts: Mapping[str, ConceptPlan],
    settings: Mapping[str, float],
    benign: Sequence[str] = (),
    judges: Mapping[str, Judge] | None = None,
) -> Attack:
    """The attack ``name`` on the models.

    Args:
        name: One that changes more than words; the others are drawn as any prompt is.
        models: Base and safe model.
        concepts: By prompt.
        settings: In place of the published ones.
        benign: Harmless texts; attacks whose profile says so need at least one.
        judges: By name, those of the concepts; attacks that keep the best of several pictures
            do not apply without.

    Raises:
        UsageError: there is no such attack or setting, it asks in other words only, or a text
            is refused by the content rules.
        Inconclusive: the package that adds it cannot be imported, or gives something else.
    """
    profile = find_attack(name)
    unknown = sorted(settings.keys() - profile.settings.keys())
    if unknown:
        raise UsageError(
            f"attack {name!r} has no setting {unknown[0]!r}",
            f"its settings: {', '.join(profile.settings) or 'none'}",
        )
    if profile.other_words:
        raise UsageError(f"attack {name!r} only asks in other words", "sample its prompts")
    _check_content(concepts, benign)
    # every setting has the type of its default, whatever number a policy wrote
    chosen: dict[str, Any] = {
        key: type(default)(settings.get(key, default)) for key, default in profile.settings.items()
    }
    if not profile.make:
        return CLASSES[name](
            models=models, concepts=concepts, benign=tuple(benign), judges=judges or {}, **chosen
        )
    make = import_part(f"attack {name!r}", profile.make)
    attack = make(models=models, concepts=concepts, **chosen)
    if not isinstance(attack, Attack):
        raise Inconclusive(f"attack {name!r} gave {type(attack).__name__}, not an Attack")
    return attack


def _check_content(concepts: Mapping[str, ConceptPlan], benign: Sequence[str]) -> None:
    """Policies were checked when they were read; whoever calls from Python is checked here."""
    texts = {*concepts, *benign}
    for concept in concepts.values():
        texts.update((concept.name, *concept.erase, *concept.phrasings, *concept.labels))
    if found := first_refused(sorted(texts)):
        raise UsageError(f"no attack on {found[0]!r}: {found[1]}", "choose other prompts")
