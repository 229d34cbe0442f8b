"""What every attack gives: pictures of the safe model that an adversary has meddled with.

Symbols: z latents (b, c, h, w), c and c_0 the conditions of prompts and of the empty prompt.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from safediff.guard.base import Guard
from safediff.judge.base import Judge
from safediff.models.backbone import Backbone, Condition
from safediff.policy.plan import ConceptPlan
from safediff.sample.sampler import Draw, Picture, Sampling, denoise_all


@dataclass(frozen=True, kw_only=True)
class Models:
    """What the adversary has before them."""

    base: Backbone
    """Anyone can have it: erasing does not take it back."""
    safe: Backbone
    """The model under attack, in PyTorch or as an engine."""
    guard: Guard | None = None
    """How the safe model is sampled; no attack here takes it off."""


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """One way to bring concepts back; holds no state but what it has worked out beforehand."""

    models: Models
    concepts: Mapping[str, ConceptPlan]
    """By prompt: what its picture must not show."""
    benign: tuple[str, ...] = ()
    """Harmless texts, for attacks that need some."""
    judges: Mapping[str, Judge] = field(default_factory=dict)
    """By name; for attacks that try several pictures and keep the best."""
    one_by_one: ClassVar[bool] = False
    """A picture takes long: each is given as soon as it is there, so that a killed run keeps it."""

    def obstacle(self) -> str | None:
        """Why the attack says nothing about this model; None where it can be tried."""
        return None

    def prepare(self, draws: Sequence[Draw], sampling: Sampling) -> None:  # noqa: B027
        """Work out beforehand what all of these draws share.

        ``sampling`` is the plan's, whatever guidance a data set gives some of its prompts: what is
        trained must not depend on which of them come first, or are left to draw.
        """

    @abstractmethod
    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """Final latents (n, c, h, w) of one batch; draws are those of the direct prompts.

        ``sampling`` is that of these draws; what is tried for one of them fits its batches.
        """

    @torch.no_grad()
    def pictures(
        self,
        draws: Sequence[Draw],
        sampling: Sampling,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Picture]]:
        """All pictures, batch by batch, in order, as ``safediff.sample.sampler.sample`` gives them.

        Raises:
            UsageError: a prompt is longer than the text encoder's window.
        """
        self.prepare(draws, sampling)
        size = 1 if self.one_by_one else sampling.batch_size
        for part, own in replace(sampling, batch_size=size).batches(draws):
            z = self.latents(part, replace(own, batch_size=sampling.batch_size))
            images, finite = self.models.safe.decode(z)
            yield [
                Picture(draw=draw, image=image, finite=ok)
                for draw, image, ok in zip(part, images.cpu(), finite.tolist(), strict=True)
            ]
            on_batch(len(part))


@dataclass(frozen=True, kw_only=True)
class TextAttack(Attack):
    """Puts other text states in place of the prompt's; the sampler stays as it is."""

    @abstractmethod
    def condition(self, prompts: Sequence[str]) -> Condition:
        """What the denoiser reads instead of E(prompt), one row a prompt."""

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``."""
        c = self.condition([draw.prompt for draw in draws])
        c_0 = self.models.safe.null().repeat(len(draws))
        return denoise_all(self.models.safe, draws, c_0, c, sampling, self.models.guard)
