"""The guard of a policy: which one, against which texts."""

from collections.abc import Sequence

from safediff.guard.params import GuardParams, find_preset
from safediff.policy.desk import Desk
from safediff.policy.plan import ConceptPlan, GuardPlan
from safediff.policy.problems import Loc
from safediff.policy.window import MAX_TOKENS, estimated_tokens

_TEXTS: Loc = ("guard", "texts")


def resolve_guard(desk: Desk, concepts: Sequence[ConceptPlan]) -> GuardPlan | None:
    """The guard with its texts; None when the policy has none.

    A note tells what it costs and that the verdict depends on it.
    """
    entry = desk.policy.guard
    if entry is None:
        return None
    scale = desk.policy.verify.sampling.guidance_scale
    if scale <= 1:
        message = f"a guard steers guidance, and verify.sampling.guidance_scale {scale:g} has none"
        desk.source.refuse(("guard",), message)
    params = find_preset(entry.name)
    if entry.texts is None:
        texts = tuple(text for concept in concepts for text in concept.erase)
    else:
        texts = desk.texts(entry.texts, ("guard", "texts"))
    _check_window(desk, params, texts)
    desk.notes.append(
        f"guard '{entry.name}' steers every model but the base: "
        f"{params.num_branches(len(texts))} UNet passes a picture and step instead of 2; "
        "the verdict holds only where the model is sampled with it"
    )
    return GuardPlan(name=entry.name, texts=texts)


def _check_window(desk: Desk, params: GuardParams, texts: Sequence[str]) -> None:
    loc: Loc = ("guard",) if desk.policy.guard and desk.policy.guard.texts is None else _TEXTS
    for branch in params.branch_texts(texts):
        num_words, estimate = len(branch.split()), estimated_tokens(branch)
        if estimate > MAX_TOKENS:
            message = (
                f"a branch of the guard has {num_words} words, about {estimate} tokens; the text "
                f"encoder reads {MAX_TOKENS} and would drop the rest without a word"
            )
            desk.source.refuse(loc, message)
