"""The classifier-guidance probe (arXiv:2505.17013): steps are pulled to what a classifier wants.

A small classifier p(y | z_t, t) learns the concepts, and "none of them", on the base model's own
noised latents. While the safe model draws, its noise prediction e becomes

    e - s sqrt(1 - a_t) grad_z log p(concept | z_t, t)

(Dhariwal and Nichol 2021, arXiv:2105.05233, algorithm 2). Only the classifier is derived, so
engines are probed like any other model. Each try has another scale s; the judge keeps the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safediff.attack.base import Attack
from safediff.attack.best import best_row, judge_obstacle, parts
from safediff.attack.gradients import (
    base_latents,
    elsewhere,
    generator_of,
    noised,
    random_timesteps,
)
from safediff.attack.kept import kept_draws, kept_obstacle
from safediff.attack.noise import alphas, ddim_step, scheduler_obstacle
from safediff.attack.steps import start_guidance
from safediff.sample.sampler import Draw, Sampling, initial_latents

WIDTH = 64
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


class LatentClassifier(nn.Module):
    """Three convolutions over latents and noise level, pooled; in float32."""

    def __init__(self, num_channels: int, num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, WIDTH, 3, padding=1) for width in (num_channels + 1, WIDTH, WIDTH)
        )
        self.head = nn.Linear(WIDTH, num_classes)
        with torch.no_grad():
            for parameter in self.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                fan_in = parameter[0].numel()
                parameter.copy_(drawn * (2 / fan_in) ** 0.5 if parameter.ndim > 1 else 0 * drawn)

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        """Logits (n, classes) of noised latents (n, c, h, w) with cumulated alphas (n,)."""
        level = a.view(-1, 1, 1, 1).expand(-1, 1, *z.shape[-2:])
        x = torch.cat([z, level], dim=1).float()
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits

    @torch.enable_grad()
    def pull(self, z: Tensor, a: Tensor, label: int) -> Tensor:
        """grad_z log p(label | z, a), (n, c, h, w)."""
        z = z.detach().requires_grad_()
        log_p = self(z, a).log_softmax(1)[:, label].sum()
        (gradient,) = torch.autograd.grad(log_p, z)
        return gradient


@dataclass(frozen=True)
class Trained:
    """A classifier, its classes, and how it came about."""

    network: LatentClassifier
    names: tuple[str, ...]
    """Concepts, in the order of the classes; the last class is none of them."""
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ClassifierGuidance(Attack):
    """Asks the direct prompt, from the latents of the direct picture."""

    one_by_one: ClassVar[bool] = True

    num_tries: int
    scale: float
    """Largest s; the tries are spread evenly up to it."""
    num_pictures: int
    """Of the base model to train on, per concept, and as many of other things."""
    num_iterations: int
    """Steps of the training."""
    _trained: dict[int, Trained] = field(default_factory=dict, init=False, repr=False)
    """By seed."""

    def obstacle(self) -> str | None:
        """Another scheduler than DDIM's, no judge, or nothing harmless to tell concepts from."""
        found = scheduler_obstacle(self.models.safe.scheduler)
        found = found or judge_obstacle(self.judges, self.concepts)
        return found or kept_obstacle(self.concepts.values(), self.benign)

    def prepare(self, draws: Sequence[Draw], sampling: Sampling) -> None:
        """See ``Attack``."""
        self.classifier(sampling)

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``."""
        return torch.cat([self._best(draw, sampling) for draw in draws])

    def classifier(self, sampling: Sampling) -> Trained:
        """Trained once for a seed."""
        if sampling.seed not in self._trained:
            self._trained[sampling.seed] = self._train(sampling)
        return self._trained[sampling.seed]

    def _best(self, draw: Draw, sampling: Sampling) -> Tensor:
        z = torch.cat(
            [self._tries(draw, part, sampling) for part in parts(self.num_tries, sampling)]
        )
        return best_row(self.models.safe, z, self.concepts[draw.prompt], self.judges, sampling)

    def _tries(self, draw: Draw, part: slice, sampling: Sampling) -> Tensor:
        safe, trained = self.models.safe, self.classifier(sampling)
        numbers = list(range(self.num_tries))[part]
        label = trained.names.index(self.concepts[draw.prompt].name)
        guidance = start_guidance(safe, [draw.prompt] * len(numbers), sampling, self.models.guard)
        scheduler = safe.new_scheduler()
        scheduler.set_timesteps(sampling.num_steps, device=guidance.condition.hidden.device)
        alike = [draw] * len(numbers)
        z = initial_latents(alike, safe.latent_shape, sampling.seed, sampling.rows)
        hidden = guidance.condition.hidden
        z = z.to(hidden.device)  # the trajectory is in float32: near its end 1 - a is tiny
        s = torch.tensor([self.scale * (number + 1) / self.num_tries for number in numbers])
        s = s.view(-1, 1, 1, 1).to(z)
        for step, t in enumerate(scheduler.timesteps):
            model_in = torch.cat([z.to(hidden)] * guidance.num_branches)
            e = guidance(step, safe.denoise(model_in, t, guidance.condition)).float()
            a, a_then = (value.to(z) for value in alphas(scheduler, t))
            pull = trained.network.pull(z, a.expand(len(z)), label).to(z)
            eps = safe.noise(e, z, t) - s * (1 - a).sqrt() * pull
            z = ddim_step(z, eps, a, a_then)
        return z

    def _train(self, sampling: Sampling) -> Trained:
        base = self.models.base
        generator = generator_of("classifier-guidance", Draw(""), sampling.seed)
        concepts = {concept.name: concept for concept in self.concepts.values()}
        draws, labels = [], []
        for label, concept in enumerate(concepts.values()):
            texts = concept.phrasings or concept.erase
            draws += [Draw(texts[i % len(texts)], i) for i in range(self.num_pictures)]
            labels += [label] * self.num_pictures
        draws += kept_draws(concepts.values(), self.benign, len(draws))
        labels += [len(concepts)] * len(labels)
        x = base_latents(base, draws, elsewhere(sampling))
        y = torch.tensor(labels, device=x.device)
        network = LatentClassifier(x.shape[1], len(concepts) + 1, generator).to(x.device)
        adam = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
        losses = []
        for _ in range(self.num_iterations):
            rows = torch.randint(len(x), (BATCH_SIZE,), generator=generator).to(x.device)
            t = random_timesteps(base.scheduler, BATCH_SIZE, generator)
            points = noised(base, x[rows], t, generator)
            a = base.scheduler.alphas_cumprod[t].to(x)
            with torch.enable_grad():
                loss = F.cross_entropy(network(points.z, a), y[rows])
                adam.zero_grad()
                loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
        return Trained(network.requires_grad_(False), tuple(concepts), tuple(losses))
