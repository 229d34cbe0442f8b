"""UnlearnDiffAtk (Zhang et al. 2023, arXiv:2310.11868): a searched prefix of a few words.

The words are chosen so that the safe model, asked with them before the direct prompt, explains the
base's picture x of the concept as well as it can:

    min over words w  mean_t |y - e_safe(z_t, t, E(w + prompt))|^2.

Every place of the prefix holds a distribution over the vocabulary (softmax of free numbers u),
whose mean embedding the text encoder reads; AdamW moves u. After each step the most likely words
are spelt out and looked at themselves. Where the paper draws pictures all along and stops at the
first success, the prefixes of lowest loss are drawn here and the judge keeps the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan
from typing import ClassVar

import torch
from torch import Tensor

from safediff.attack.base import Attack
from safediff.attack.best import best_row, judge_obstacle, parts, repeated
from safediff.attack.gradients import (
    Points,
    base_latents,
    denoising_loss,
    differentiate,
    generator_of,
    noised,
    obstacle,
    spread_timesteps,
)
from safediff.attack.own_tokens import (
    Words,
    encode_own,
    own_tokens_obstacle,
    room,
    searchable_words,
    token_ids,
)
from safediff.policy.content import check_text
from safediff.sample.sampler import Draw, Sampling, denoise_all


@dataclass(frozen=True)
class Prefixed:
    """What one search found."""

    texts: tuple[str, ...]
    """Prefix and prompt, the lowest loss first, at most ``num_tries``."""
    losses: tuple[float, ...]
    """Of the words spelt out after every step, in order."""
    direct_loss: float
    """Of the prompt without a prefix."""


@dataclass(frozen=True, kw_only=True)
class UnlearnDiffAtk(Attack):
    """Searches a prefix for every prompt; the pictures are drawn like those of any prompt."""

    one_by_one: ClassVar[bool] = True

    num_tokens: int
    """Words of the prefix."""
    num_iterations: int
    num_points: int
    """Timesteps that the loss is a mean over; the same ones all along."""
    num_tries: int
    """Prefixes that are drawn."""
    learning_rate: float
    weight_decay: float

    def obstacle(self) -> str | None:
        """No gradient, no judge, no room for a prefix, or several text encoders."""
        found = obstacle(self.models.safe) or own_tokens_obstacle(self.models.safe)
        found = found or judge_obstacle(self.judges, self.concepts)
        if found is None and any(
            room(self.models.safe, prompt) < self.num_tokens for prompt in self.concepts
        ):
            found = f"a prompt leaves no room for {self.num_tokens} more tokens"
        return found

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``."""
        return torch.cat([self._best(draw, sampling) for draw in draws])

    def _best(self, draw: Draw, sampling: Sampling) -> Tensor:
        safe = self.models.safe
        found = self.search(draw, sampling)
        if not all(map(isfinite, found.losses)):
            # nothing was searched, so the attempt must count as failed, not as resisted
            return torch.full((1, *safe.latent_shape), torch.nan, device=safe.text_encoder.device)
        c = safe.encode(found.texts)
        c_0 = safe.null()
        z = torch.cat(
            [
                denoise_all(
                    safe,
                    [draw] * len(c.rows(part)),
                    c_0.repeat(len(c.rows(part))),
                    c.rows(part),
                    sampling,
                    self.models.guard,
                )
                for part in parts(len(c), sampling)
            ]
        )
        return best_row(safe, z, self.concepts[draw.prompt], self.judges, sampling)

    def search(self, draw: Draw, sampling: Sampling) -> Prefixed:
        """The prefixes for one prompt; the same for the same draw, in any batch."""
        safe, words = self.models.safe, self._words
        generator = generator_of("unlearn-diff-atk", draw, sampling.seed)
        x = base_latents(self.models.base, [draw], sampling)
        t = spread_timesteps(safe.scheduler, self.num_points)
        points = noised(safe, x.repeat(self.num_points, 1, 1, 1), t, generator)
        u = torch.randn(self.num_tokens, len(words.spelt), generator=generator)
        # in float32 whatever the model's type: Adam's moments would vanish in float16
        u = (0.01 * u).to(words.embeddings.device).requires_grad_()
        adam = torch.optim.AdamW([u], lr=self.learning_rate, weight_decay=self.weight_decay)
        found: dict[str, float] = {}
        losses = []
        for _ in range(self.num_iterations):
            loss = self._relaxed(u, draw.prompt, points)
            (u.grad,) = differentiate(loss, [u], points)
            adam.step()
            text = f"{words.text(u.argmax(1))} {draw.prompt}"
            losses.append(self._spelt(text, points) if u.isfinite().all() else nan)
            if check_text(text) is None:
                found[text] = losses[-1]
        ranked = sorted(found, key=lambda text: found[text])
        direct_loss = self._spelt(draw.prompt, points)
        # a model for which no prefix may be drawn is asked directly: nothing was found
        texts = [*ranked, draw.prompt][: self.num_tries]
        texts += [texts[-1]] * (self.num_tries - len(texts))
        return Prefixed(tuple(texts), tuple(losses), direct_loss)

    @torch.enable_grad()
    def _relaxed(self, u: Tensor, prompt: str, points: Points) -> Tensor:
        """The loss under the mean embeddings of the places."""
        safe, k = self.models.safe, self.num_tokens
        ids = token_ids(safe, prompt)
        # the prefix moves the prompt's tokens to the right; padding falls off the end
        ids = torch.cat([ids[:, :1], ids[:, :1].expand(-1, k), ids[:, 1:-k]], dim=1)
        own = torch.zeros_like(ids, dtype=torch.bool)
        own[:, 1 : 1 + k] = True
        c = encode_own(safe, ids, own, u.softmax(1) @ self._words.embeddings.float())
        return denoising_loss(safe, points, repeated(c, len(points.t)))

    @torch.no_grad()
    def _spelt(self, text: str, points: Points) -> float:
        c = self.models.safe.encode([text])
        return float(denoising_loss(self.models.safe, points, repeated(c, len(points.t))))

    @cached_property
    def _words(self) -> Words:
        return searchable_words(self.models.safe)
