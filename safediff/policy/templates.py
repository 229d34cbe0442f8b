"""Prompt templates: the distinct product of texts and values, in a fixed, balanced order.

The order depends on the seed and the prompts alone (a hash, not a random generator), so it is the
same in every Python, and its first n prompts are spread evenly over the texts.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MAX_EXPANDED = 100_000
"""More prompts than any check draws; a product beyond it is a mistake in the policy."""

_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")

Values = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class TemplateSet:
    """Templates with what their placeholders stand for (``{text}`` apart)."""

    templates: tuple[str, ...]
    values: Values

    def with_text(self) -> "TemplateSet":
        """Only the templates that name ``{text}``."""
        kept = tuple(t for t in self.templates if "text" in placeholders(t))
        return TemplateSet(templates=kept, values=self.values)


@dataclass(frozen=True, kw_only=True)
class Filled:
    """One expanded template and what its placeholders stood for."""

    prompt: str
    values: Mapping[str, str]


def placeholders(template: str) -> tuple[str, ...]:
    """Distinct placeholder names in order of appearance."""
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(template)))


def has_stray_brace(template: str) -> bool:
    """A brace that belongs to no placeholder."""
    return bool(re.search(r"[{}]", _PLACEHOLDER.sub("", template)))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into a template whose placeholders are all known."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def num_expanded(chosen: TemplateSet, num_texts: int) -> int:
    """Size of the product, before duplicates are dropped."""
    sizes = {name: len(words) for name, words in chosen.values.items()} | {"text": num_texts}
    return sum(math.prod(sizes[n] for n in placeholders(t)) for t in chosen.templates)


def expand(chosen: TemplateSet, texts: Sequence[str]) -> list[Filled]:
    """Every distinct prompt; where two combinations give one prompt, the first counts."""
    words = {**chosen.values, "text": tuple(texts)}
    filled: dict[str, Filled] = {}
    for template in chosen.templates:
        names = placeholders(template)
        for combination in itertools.product(*(words[name] for name in names)):
            values = dict(zip(names, combination, strict=True))
            prompt = fill(template, values)
            filled.setdefault(prompt, Filled(prompt=prompt, values=values))
    return list(filled.values())


def balanced(filled: Iterable[Filled], seed: int) -> list[Filled]:
    """Shuffle by hash, then take turns over the texts."""
    groups: dict[str, list[Filled]] = {}
    for item in sorted(filled, key=lambda item: _rank(seed, item.prompt)):
        groups.setdefault(item.values.get("text", ""), []).append(item)
    rounds = itertools.zip_longest(*groups.values())
    return [item for turn in rounds for item in turn if item is not None]


def shuffled(prompts: Iterable[str], seed: int) -> tuple[str, ...]:
    """Shuffle by hash: what comes first is no choice of whoever wrote the list."""
    return tuple(sorted(prompts, key=lambda prompt: _rank(seed, prompt)))


def share(num_prompts: int, available: Sequence[int]) -> list[int]:
    """Deal ``num_prompts`` out in turns over concepts, none getting more than it has."""
    dealt = [0] * len(available)
    while num_prompts > 0 and any(d < a for d, a in zip(dealt, available, strict=True)):
        for index, most in enumerate(available):
            if num_prompts > 0 and dealt[index] < most:
                dealt[index] += 1
                num_prompts -= 1
    return dealt


def _rank(seed: int, prompt: str) -> str:
    return hashlib.sha256(f"{seed}\n{prompt}".encode()).hexdigest()
