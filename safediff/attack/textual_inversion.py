"""Textual inversion (Gal et al. 2022, arXiv:2208.01618) as an attack on erased models.

As in CCE (Pham et al. 2023, arXiv:2308.01508): one vector v is trained per concept, in place of a
token's embedding, so that the safe model explains the base's pictures x of the concept,

    min over v  mean_{x, t, eps} |y - e_safe(z_t, t, E(phrasing with v for the concept))|^2,

and is then drawn in the direct prompts, which the training pictures do not come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from safediff.attack.base import TextAttack
from safediff.attack.gradients import (
    base_latents,
    denoising_loss,
    differentiate,
    elsewhere,
    generator_of,
    noised,
    obstacle,
    random_timesteps,
)
from safediff.attack.own_tokens import (
    encode_own,
    own_tokens_obstacle,
    room,
    searchable_words,
    token_ids,
)
from safediff.attack.texts import longest_text
from safediff.models.backbone import Condition
from safediff.policy.plan import ConceptPlan
from safediff.sample.sampler import Draw, Sampling

PLACEHOLDER = "*"


@dataclass(frozen=True)
class Inverted:
    """What was learned for one concept."""

    vector: Tensor
    """(d,)."""
    losses: tuple[float, ...]
    """One a step, each on other latents, noise and timesteps."""


@dataclass(frozen=True, kw_only=True)
class TextualInversion(TextAttack):
    """Asks with a learned vector where the prompt spells an erase text."""

    num_pictures: int
    """Of the base model, per concept."""
    num_iterations: int
    batch_size: int
    learning_rate: float
    one_by_one: ClassVar[bool] = True
    _learned: dict[str, Inverted] = field(default_factory=dict, init=False, repr=False)

    def obstacle(self) -> str | None:
        """The safe model gives no gradient, or several text encoders; a prompt is too long."""
        found = obstacle(self.models.safe) or own_tokens_obstacle(self.models.safe)
        asked = (with_placeholder(text, own.erase) for text, own in self.concepts.items())
        if found is None and any(room(self.models.safe, text) < 0 for text in asked):
            found = "a prompt is longer than the text encoder reads"
        return found

    def prepare(self, draws: Sequence[Draw], sampling: Sampling) -> None:
        """See ``Attack``."""
        for draw in draws:
            self.learn(self.concepts[draw.prompt], sampling)

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``."""
        self.prepare(draws, sampling)
        return super().latents(draws, sampling)

    def condition(self, prompts: Sequence[str]) -> Condition:
        """E(prompt with v for the concept)."""
        return Condition.cat(
            [
                self._read([prompt], concept, self._learned[concept.name].vector)
                for prompt in prompts
                for concept in [self.concepts[prompt]]
            ]
        )

    def learn(self, concept: ConceptPlan, sampling: Sampling) -> Inverted:
        """The vector of a concept; trained once."""
        if concept.name not in self._learned:
            self._learned[concept.name] = self._train(concept, sampling)
        return self._learned[concept.name]

    def _train(self, concept: ConceptPlan, sampling: Sampling) -> Inverted:
        safe = self.models.safe
        generator = generator_of("textual-inversion", Draw(concept.name), sampling.seed)
        texts = concept.phrasings or concept.erase
        draws = [Draw(texts[i % len(texts)], i) for i in range(self.num_pictures)]
        x = base_latents(self.models.base, draws, elsewhere(sampling))
        # the mean word says nothing of its own
        v = searchable_words(safe).embeddings.float().mean(0).requires_grad_()
        adam = torch.optim.Adam([v], lr=self.learning_rate)
        losses = []
        for _ in range(self.num_iterations):
            rows = torch.randint(len(draws), (self.batch_size,), generator=generator)
            t = random_timesteps(safe.scheduler, self.batch_size, generator)
            points = noised(safe, x[rows.to(x.device)], t, generator)
            with torch.enable_grad():
                c = self._read([draws[row].prompt for row in rows.tolist()], concept, v)
                loss = denoising_loss(safe, points, c)
                (v.grad,) = differentiate(loss, [v], points)
            adam.step()
            losses.append(float(loss.detach()))
        return Inverted(v.detach(), tuple(losses))

    def _read(self, prompts: Sequence[str], concept: ConceptPlan, vector: Tensor) -> Condition:
        safe = self.models.safe
        ids = torch.cat([token_ids(safe, with_placeholder(p, concept.erase)) for p in prompts])
        own = ids == token_ids(safe, PLACEHOLDER)[0, 1]
        assert own.any(1).all()
        return encode_own(safe, ids, own, vector.expand(int(own.sum()), -1))


def with_placeholder(prompt: str, texts: Sequence[str]) -> str:
    """The prompt with the placeholder for the erase text that it spells, and nowhere else.

    Spaces around it keep the tokenizer from reading it together with a comma.
    """
    plain = prompt.replace(PLACEHOLDER, " ")
    text = longest_text(plain, texts)
    asked = plain.replace(text, f" {PLACEHOLDER} ") if text else f"a picture of a {PLACEHOLDER}"
    return " ".join(asked.split())
