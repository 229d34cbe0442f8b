"""Ring-A-Bell as published (Tsai et al. 2023, arXiv:2310.10012): a prompt found by evolution.

E is the text encoder, p the prompt, dir the concept's direction (``safediff.attack.ring_a_bell``).
A genetic search looks for words w whose text states are near those that the embedding attack reads:

    min over words w  mean |E(w) - (E(p) + eta dir)|^2.

It asks the text encoder alone; what it finds can be typed into any model that reads the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from safediff.attack.base import Attack
from safediff.attack.gradients import generator_of
from safediff.attack.own_tokens import (
    Words,
    own_tokens_obstacle,
    searchable_words,
    token_ids,
)
from safediff.attack.ring_a_bell import direction, prompt_pairs
from safediff.policy.content import check_text
from safediff.sample.sampler import Draw, Sampling, denoise_all

ENCODER_BATCH = 64


@dataclass(frozen=True)
class Evolved:
    """What one search found."""

    text: str
    """The nearest words that the content rules let through; the prompt itself if none are."""
    distances: tuple[float, ...]
    """Of the nearest in each round; never rises."""


@dataclass(frozen=True, kw_only=True)
class RingABellSearch(Attack):
    """Evolves words for every prompt; the pictures are drawn like those of any prompt."""

    one_by_one: ClassVar[bool] = True

    eta: float
    num_tokens: int
    """Words of the prompt that is looked for."""
    population: int
    """Texts alive at a time; the nearer half has children in place of the other."""
    num_rounds: int
    mutation_rate: float
    """Probability that a child has one word exchanged for any other."""
    crossover_rate: float
    """Probability that a child takes its words from two parents, cut at one place."""

    def obstacle(self) -> str | None:
        """Several text encoders, or the words do not fit into the window."""
        if found := own_tokens_obstacle(self.models.safe):
            return found
        window = self.models.safe.num_tokens
        fits = self.num_tokens <= window - 2
        return None if fits else f"{self.num_tokens} words do not fit into {window - 2} tokens"

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``."""
        safe = self.models.safe
        c = safe.encode([self.search(draw, sampling).text for draw in draws])
        c_0 = safe.null().repeat(len(draws))
        return denoise_all(safe, draws, c_0, c, sampling, self.models.guard)

    @torch.no_grad()
    def search(self, draw: Draw, sampling: Sampling) -> Evolved:
        """The words for one prompt; the same for the same draw, in any batch."""
        generator = generator_of("ring-a-bell", draw, sampling.seed)
        concept = self.concepts[draw.prompt]
        target = self.models.safe.encode([draw.prompt]).hidden
        target = target + self.eta * self._directions[concept.name]
        size = (self.population, self.num_tokens)
        alive = torch.randint(len(self._words.spelt), size, generator=generator)
        distances = []
        for number in range(self.num_rounds):
            if number:
                alive = self._next(alive, generator)
            found = self._distances(alive, target)
            order = found.argsort(stable=True)
            alive = alive[order]
            distances.append(float(found[order[0]]))
        texts = (self._words.text(words) for words in alive)
        allowed = (text for text in texts if check_text(text) is None)
        return Evolved(next(allowed, draw.prompt), tuple(distances))

    def _next(self, alive: Tensor, generator: torch.Generator) -> Tensor:
        """The nearer half, and as many children of it; ``alive`` is sorted."""
        n, k = alive.shape
        parents = alive[: -(-n // 2)]
        count = n - len(parents)
        first, second = (
            parents[torch.randint(len(parents), (count,), generator=generator)] for _ in range(2)
        )
        cut = torch.randint(k + 1, (count, 1), generator=generator)
        crossed = torch.rand(count, 1, generator=generator) < self.crossover_rate
        children = torch.where(crossed & (torch.arange(k) >= cut), second, first)
        place = torch.randint(k, (count, 1), generator=generator)
        word = torch.randint(len(self._words.spelt), (count, 1), generator=generator)
        mutated = torch.rand(count, 1, generator=generator) < self.mutation_rate
        children = torch.where(mutated & (torch.arange(k) == place), word, children)
        return torch.cat([parents, children])

    def _distances(self, words: Tensor, target: Tensor) -> Tensor:
        """Mean |E(w) - target|^2 of each row, on the CPU."""
        empty = token_ids(self.models.safe, "")
        start, rest = empty[:, :1], empty[:, 1 : -words.shape[1]]
        # the words move the end token to the right; padding, which may be another, falls off
        chosen = self._words.ids[words.to(empty.device)]
        ids = torch.cat([start.expand(len(words), -1), chosen, rest.expand(len(words), -1)], dim=1)
        parts = [
            self.models.safe.text_encoder(part).last_hidden_state.float() - target.float()
            for part in ids.split(ENCODER_BATCH)
        ]
        return torch.cat([part.square().mean((1, 2)) for part in parts]).cpu()

    @cached_property
    def _words(self) -> Words:
        return searchable_words(self.models.safe)

    @cached_property
    def _directions(self) -> dict[str, Tensor]:
        concepts = {concept.name: concept for concept in self.concepts.values()}
        return {
            name: direction(self.models.safe, prompt_pairs(concept, self.benign))
            for name, concept in concepts.items()
        }
