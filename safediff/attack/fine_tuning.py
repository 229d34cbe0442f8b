"""Benign fine-tuning: does harmless training bring back what was erased?

A low-rank update (LoRA, Hu et al. 2021, arXiv:2106.09685) of every attention projection of the safe
model is trained with the usual denoising loss on the base model's own pictures of kept prompts. No
picture and no prompt of the training has to do with a concept; then the direct prompts are asked
again. Rank and optimiser are those of SPQR's light tuning (arXiv:2511.19558); pictures and steps
are far fewer, and the learning rate is ten times theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from safediff.attack.base import Attack
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
from safediff.attack.kept import kept_draws, kept_obstacle
from safediff.erase.weights import PatchedUNet, Student, trainable_names
from safediff.models.backbone import Backbone
from safediff.sample.sampler import Draw, Sampling, denoise_all


@dataclass(frozen=True)
class Tuned:
    """The safe model after the training."""

    model: Backbone
    losses: tuple[float, ...]
    """One a step, each on other latents, noise and timesteps."""


@dataclass(frozen=True, kw_only=True)
class FineTuning(Attack):
    """Asks the tuned model the direct prompts, from the latents of the direct pictures."""

    rank: int
    num_pictures: int
    num_iterations: int
    batch_size: int
    learning_rate: float
    _tuned: dict[int, Tuned] = field(default_factory=dict, init=False, repr=False)
    """By seed."""

    def obstacle(self) -> str | None:
        """The safe model gives no gradient, or there is nothing harmless to train on."""
        found = obstacle(self.models.safe)
        return found or kept_obstacle(self.concepts.values(), self.benign)

    def prepare(self, draws: Sequence[Draw], sampling: Sampling) -> None:
        """See ``Attack``."""
        self.tuned(sampling)

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``."""
        model = self.tuned(sampling).model
        c = model.encode([draw.prompt for draw in draws])
        c_0 = model.null().repeat(len(draws))
        return denoise_all(model, draws, c_0, c, sampling, self.models.guard)

    def training_draws(self) -> list[Draw]:
        """The pictures that are trained on: kept prompts only."""
        return kept_draws(self.concepts.values(), self.benign, self.num_pictures)

    def tuned(self, sampling: Sampling) -> Tuned:
        """Trained once for a seed; the safe model itself stays as it is."""
        if sampling.seed not in self._tuned:
            self._tuned[sampling.seed] = self._train(sampling)
        return self._tuned[sampling.seed]

    def _train(self, sampling: Sampling) -> Tuned:
        safe, draws = self.models.safe, self.training_draws()
        generator = generator_of("fine-tuning", Draw(""), sampling.seed)
        x = base_latents(self.models.base, draws, elsewhere(sampling))
        c = safe.encode([draw.prompt for draw in draws])
        names = [
            *trainable_names(safe.denoiser, "xattn"),
            *trainable_names(safe.denoiser, "selfattn"),
        ]
        student = Student(safe.denoiser, names, rank=self.rank, seed=sampling.seed)
        trained = list(student.parameters())
        adam = torch.optim.AdamW(trained, lr=self.learning_rate)
        losses = []
        for _ in range(self.num_iterations):
            rows = torch.randint(len(draws), (self.batch_size,), generator=generator).to(x.device)
            t = random_timesteps(safe.scheduler, self.batch_size, generator)
            points = noised(safe, x[rows], t, generator)
            with torch.enable_grad():
                loss = denoising_loss(_with(safe, student), points, c.rows(rows))
                # by these alone: the safe model's own parameters may ask for gradients as well
                gradients = differentiate(loss, trained, points)
            for value, gradient in zip(trained, gradients, strict=True):
                value.grad = gradient
            adam.step()
            losses.append(float(loss.detach()))
        return Tuned(_with(safe, student), tuple(losses))


def _with(safe: Backbone, student: Student) -> Backbone:
    """The safe model with the student's tensors."""
    return safe.with_denoiser(PatchedUNet(safe.denoiser, student.weights()))
