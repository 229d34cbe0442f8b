"""What every guard gives, and guidance without one.

Symbols: e_0, e_c, e_s noise predictions (b, c, h, w) for the empty prompt, the prompt and a text to
steer away from, of the same latents; s_g the guidance scale.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safediff.errors import UsageError
from safediff.guard.params import GuardParams
from safediff.models.backbone import Backbone, Condition
from safediff.policy.plan import num_branches

MOST_ROWS = 96
"""Of one call of the denoiser, or two branches, if they have more: the batch size asks for those
without a guard, too."""


def num_calls(num_branches: int, num_rows: int) -> int:
    """Of the denoiser, at a step of ``num_rows`` trajectories; each of whole branches.

    One has as many of them as another, or one more.
    """
    fit = MOST_ROWS // max(1, num_rows)  # a process may have no rows
    return math.ceil(num_branches / max(2, fit))


class Guidance(ABC):
    """Guidance along one batch of trajectories; holds what earlier steps left behind.

    ``condition`` has the rows of the first branch, then those of the second, and so on.
    """

    def __init__(self, branches: Sequence[Condition], scale: float) -> None:
        self.condition = Condition.cat(branches)
        self.num_branches = len(branches)
        self.scale = scale
        self.parts = self._parts(len(branches[0]))
        """What each call of the denoiser is conditioned on; made once, since what a text's tensor
        leads to is remembered."""

    def _parts(self, num_rows: int) -> list[Condition]:
        """Whole branches, each part as many as the others or one more."""
        count = num_calls(self.num_branches, num_rows)
        if count == 1:
            return [self.condition]
        ends = [num_rows * (self.num_branches * i // count) for i in range(count + 1)]
        return [self.condition.rows(slice(start, end)) for start, end in itertools.pairwise(ends)]

    def stacked(self, backbone: Backbone, z: Tensor, t: Tensor) -> Tensor:
        """Predictions (num_branches * b, c, h, w) of all branches, in the order of ``condition``.

        Args:
            backbone: Denoises; in one call, unless that has more than ``MOST_ROWS``.
            z: What every branch gets (b, c, h, w).
            t: The timestep ().
        """
        found = [
            backbone.denoise(torch.cat([z] * (len(part) // len(z))), t, part) for part in self.parts
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    @abstractmethod
    def __call__(self, step: int, stacked: Tensor) -> Tensor:
        """The prediction (b, c, h, w) that the scheduler gets.

        Args:
            step: How many steps were done before this one. Steps come in order, each once.
            stacked: See ``stacked``.
        """


class ClassifierFree(Guidance):
    """e_0 + s_g (e_c - e_0) (arXiv:2207.12598); the first branch need not be the empty prompt."""

    def __call__(self, step: int, stacked: Tensor) -> Tensor:
        """See ``Guidance``."""
        e_0, e_c = stacked.chunk(2)
        return e_0 + self.scale * (e_c - e_0)


class Unguided(Guidance):
    """The prompt's own prediction; the one branch."""

    def __call__(self, step: int, stacked: Tensor) -> Tensor:
        """See ``Guidance``."""
        return stacked


@dataclass(frozen=True, kw_only=True)
class Guard(ABC):
    """Changes guidance, not weights, so it works around any denoiser. Never changes itself."""

    name: str
    """For messages and records."""
    texts: tuple[str, ...]
    """What it steers away from."""
    params: GuardParams

    @property
    def num_branches(self) -> int:
        """UNet passes of one picture and step; plain guidance takes 2."""
        return self.params.num_branches(len(self.texts))

    def check(self, backbone: Backbone) -> None:
        """Refuse a model that has nothing to change.

        Raises:
            UsageError: its guidance is distilled.
        """
        if backbone.distilled_guidance:
            raise UsageError(
                f"guard {self.name!r}: changes classifier-free guidance, and {backbone.name} has "
                "none: its guidance is distilled into the network",
                "leave the guard out for this model",
            )

    def start(self, backbone: Backbone, c_0: Condition, c: Condition, scale: float) -> Guidance:
        """Guidance from the first step on, for trajectories of their own.

        Args:
            backbone: Encodes the texts.
            c_0: The empty prompt, one row a trajectory.
            c: The prompts, likewise.
            scale: s_g.

        Raises:
            UsageError: the texts are longer than the text encoder's window, or ``check`` refuses.
        """
        self.check(backbone)
        return self._start(backbone, c_0, c, scale)

    @abstractmethod
    def _start(self, backbone: Backbone, c_0: Condition, c: Condition, scale: float) -> Guidance:
        """``start`` without the check."""


def start_guidance(
    guard: Guard | None, backbone: Backbone, c_0: Condition, c: Condition, scale: float
) -> Guidance:
    """Guidance by the guard, or classifier-free; see ``Guard.start``.

    A scale of at most 1 means the prompt alone, in one branch, as in diffusers: models that were
    distilled to few steps are asked so. Where guidance is distilled into the network, one branch is
    asked at the scale.

    Raises:
        UsageError: the guard's texts are longer than the text encoder's window, or there is a guard
            and nothing that it could steer; the network has no such scale.
    """
    if guard is not None and scale <= 1:
        raise UsageError(
            f"guard {guard.name!r} steers guidance, and a scale of {scale} has none",
            "ask for a guidance_scale above 1, or erase instead",
        )
    if guard is not None:
        return guard.start(backbone, c_0, c, scale)
    if num_branches(scale, backbone.distilled_guidance) == 1:
        return Unguided([backbone.at_scale(c, scale)], scale)
    return ClassifierFree([c_0, c], scale)
