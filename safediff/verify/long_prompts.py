"""Prompts that a text encoder does not read whole: refused before anything runs, or cut, counted.

What a policy says itself must fit: it would be taken for tested though nobody read it. Prompts of
tables are published as they are, and the published protocols, like the pipelines of diffusers, read
of each as many tokens as the encoder's window holds. So do checks and attacks here; training never.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from safediff.attack.ring_a_bell import prompt_pairs
from safediff.errors import UsageError
from safediff.guard.params import find_preset
from safediff.models.backbone import Backbone
from safediff.models.reader import Reader
from safediff.policy.plan import AttackCheck, ConceptPlan, Plan, RetentionCheck

SHORT_BYTES = 75
"""Texts of no more bytes fit any window: a token is a byte at least, CLIP reads the fewest."""


def cut_prompts(plan: Plan, base: Backbone) -> frozenset[str]:
    """The prompts of tables that are longer than a text encoder of ``base`` reads.

    Raises:
        UsageError: another text that checks, attacks or the guard ask is longer.
    """
    groups: list[ConceptPlan | RetentionCheck] = [*plan.concepts, *plan.verify.retention]
    tabled = {p.prompt for group in groups for p in group.prompts if p.from_table}
    tabled |= {text for check in plan.verify.attacks for text in _tabled_attempts(check, tabled)}
    found = set()
    reader: Reader | None = None
    for text, place in _asked(plan):
        if len(text.encode()) <= SHORT_BYTES or text in found:
            continue
        reader = reader or Reader(base)
        limit = reader.cut_after(text)
        if limit is None:
            continue
        if text not in tabled:
            raise UsageError(
                f"{place}: the text encoder reads {limit} tokens, less than all of {text[:60]!r}",
                "shorten it; only prompts of tables (csv, folder, hub) are cut",
            )
        found.add(text)
    return frozenset(found)


def _tabled_attempts(check: AttackCheck, tabled: Collection[str]) -> Iterator[str]:
    """Prompts of an attack that come from its own table, or reword those of another."""
    for attempt in check.attempts:
        if check.name == "cached" or attempt.direct in tabled:
            yield attempt.prompt


def _asked(plan: Plan) -> Iterator[tuple[str, str]]:
    """Every text that checks, attacks and the guard ask, and what for."""
    for concept in plan.concepts:
        yield from ((prompt.prompt, f"erasure/{concept.name}") for prompt in concept.prompts)
    for kept in plan.verify.retention:
        yield from ((prompt.prompt, f"retention/{kept.name}") for prompt in kept.prompts)
    for attack in plan.verify.attacks:
        place = f"robustness/{attack.name}"
        yield from ((attempt.prompt, place) for attempt in attack.attempts)
        if attack.benign:
            pairs = (pair for c in plan.concepts for pair in prompt_pairs(c, attack.benign))
            yield from ((text, place) for pair in pairs for text in pair)
    if plan.guard:
        branches = find_preset(plan.guard.name).branch_texts(plan.guard.texts)
        yield from ((text, f"guard {plan.guard.name}") for text in branches)


class CuttingTokenizer:
    """A tokenizer that reads some texts up to its window; it is as it was with all others."""

    def __init__(self, tokenizer: Any, texts: frozenset[str]) -> None:
        self._tokenizer, self._texts = tokenizer, texts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | Sequence[str], **options: Any) -> Mapping[str, Any]:
        """What the tokenizer makes of one text, or of several, by name."""
        if isinstance(text, str):
            found: Mapping[str, Any] = self._tokenizer(text, **options | self._cut(text))
            return found
        if self._texts.isdisjoint(text):
            found = self._tokenizer(text, **options)
            return found
        rows = [self(one, **options) for one in text]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _cut(self, text: str) -> dict[str, bool]:
        return {"truncation": True} if text in self._texts else {}


def cutting(backbone: Backbone, prompts: frozenset[str]) -> Backbone:
    """The same model, whose tokenizers read ``prompts`` up to their windows."""
    if not prompts:
        return backbone
    texts = frozenset(map(backbone.as_read, prompts))
    own: dict[str, Any] = {
        name: CuttingTokenizer(getattr(backbone, name), texts) for name in backbone.windows
    }
    return replace(backbone, **own)
