"""Which text plays which role in a rollout: c_s, c_p and the kept texts, encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from safediff.erase.params import DistilParams, num_kept
from safediff.erase.remaining import choose
from safediff.models.backbone import Backbone, Condition
from safediff.policy.plan import ConceptPlan
from safediff.sample.shards import Shards


@dataclass(frozen=True)
class Batch:
    """The conditions of one rollout; rows are trajectories, erased ones first."""

    c_p: Condition
    c_s: Condition
    """Loss texts: concepts to erase, then kept texts."""
    c_t: Condition
    """What each text to erase is to be answered like, one row each: the empty prompt, unless the
    policy says what is drawn instead."""
    num_erase: int
    part_of_erase: float = 1.0
    """Which part the erased rows are of those of all processes."""
    part_of_keep: float = 1.0
    units: tuple[int, ...] = ()
    """Which erase text each row to erase has, of all processes."""

    def share(self, shards: Shards) -> "Batch":
        """The rows of one process; some may have none of a kind."""
        if shards.count == 1:
            return self
        mine = shards.stripe
        c_s, c_t = self.c_s.rows(mine), self.c_t.rows(mine)
        num_keep = len(self.c_s) - self.num_erase
        return Batch(
            c_p=self.c_p.rows(mine),
            c_s=c_s,
            c_t=c_t,
            num_erase=len(c_t),
            part_of_erase=len(c_t) / self.num_erase,
            part_of_keep=(len(c_s) - len(c_t)) / num_keep if num_keep else 0.0,
            units=self.units,
        )


class TextBank:
    """Every text that training uses, encoded once.

    A concept may have several erase texts; each of them is one unit of the cycle.
    """

    def __init__(
        self,
        backbone: Backbone,
        concepts: tuple[ConceptPlan, ...],
        keep: tuple[str, ...],
        scale: float = 1.0,
    ) -> None:
        """``scale`` is the guidance scale at which models that read it are asked."""

        def encode(texts: Sequence[str]) -> Condition:
            return backbone.at_scale(backbone.encode(texts), scale)

        def targets(texts: Sequence[str]) -> Condition:
            return backbone.at_scale(backbone.encode_with_null(texts), scale)

        self.units = [(text, concept) for concept in concepts for text in concept.erase]
        self.encode = encode
        self.null = targets([""])
        self.each = encode([text for text, _ in self.units])
        self.spoken = [_phrasings_of(text, concept) for text, concept in self.units]
        self.phrasings = [encode([phrasing for phrasing, _ in bank]) for bank in self.spoken]
        self.toward = [targets([instead for _, instead in bank]) for bank in self.spoken]
        self.device = str(self.null.hidden.device)
        self.keep = encode(keep).to("cpu") if keep else None
        """In main memory: there may be thousands, of which a rollout draws a few."""
        self.keep_weights: Tensor | None = None
        """Relative chance of each kept text, on the CPU; None: all alike."""

    @cached_property
    def joined(self) -> Condition:
        """All erase texts in one; only settings that ask for it need it to fit.

        Raises:
            UsageError: it is longer than the text encoder's window.
        """
        return self.encode([", ".join(text for text, _ in self.units)])

    def kept_tokens(self) -> Condition:
        """The kept texts and the empty one, whose start and padding all texts share."""
        empty = self.encode([""])
        if self.keep is None:
            return empty
        return Condition.cat([self.keep, empty.to("cpu")]).to(self.device)

    def draw(
        self,
        index: int,
        params: DistilParams,
        generator: torch.Generator,
        left: Tensor | None = None,
    ) -> Batch:
        """The texts of rollout number ``index``; ``left``: what is left of every unit."""
        num_keep = num_kept(params) if self.keep is not None else 0
        num_erase = params.batch_size - num_keep
        if params.order == "cyclic":
            units = (torch.arange(num_erase) + index * num_erase) % len(self.units)
        elif params.order == "remaining":
            units = choose(
                torch.ones(len(self.units)) if left is None else left, num_erase, generator
            )
        else:
            units = torch.randint(len(self.units), (num_erase,), generator=generator)
        c_p, _ = self._rows(params.rollout_text, units, generator)
        c_s, c_t = self._rows(params.loss_text, units, generator)
        if num_keep and self.keep is not None:
            drawn = self._draw_kept(len(self.keep), num_keep, generator)
            kept = self.keep.rows(drawn).to(self.device)
            c_p, c_s = Condition.cat([c_p, kept]), Condition.cat([c_s, kept])
        return Batch(c_p, c_s, c_t, num_erase, units=tuple(units.tolist()))

    def _draw_kept(self, count: int, num_drawn: int, generator: torch.Generator) -> Tensor:
        if self.keep_weights is None:
            return torch.randint(count, (num_drawn,), generator=generator)
        return torch.multinomial(
            self.keep_weights, num_drawn, replacement=True, generator=generator
        )

    def _rows(
        self, role: str, units: Tensor, generator: torch.Generator
    ) -> tuple[Condition, Condition]:
        """Texts of a role, and what each is to be answered like."""
        null = self.null.repeat(len(units))
        if role == "joined":
            return self.joined.repeat(len(units)), null
        if role == "each":
            return self.each.rows(units), null
        texts, instead = [], []
        for unit in units.tolist():
            row = int(torch.randint(len(self.phrasings[unit]), (), generator=generator))
            texts.append(self.phrasings[unit].rows(slice(row, row + 1)))
            instead.append(self.toward[unit].rows(slice(row, row + 1)))
        return Condition.cat(texts), Condition.cat(instead)


def _phrasings_of(text: str, concept: ConceptPlan) -> list[tuple[str, str]]:
    """The concept's phrasings that hold this erase text (all if none does), with their targets."""
    pairs = list(concept.spoken)
    return [pair for pair in pairs if text in pair[0]] or pairs or [(text, "")]
