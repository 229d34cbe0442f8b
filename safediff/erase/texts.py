"""Which text plays which role in a rollout: c_s, c_p and the kept texts, encoded once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from safediff.erase.params import SddParams
from safediff.models.backbone import Backbone, Condition
from safediff.policy.plan import ConceptPlan


@dataclass(frozen=True)
class Batch:
    """The conditions of one rollout; rows are trajectories, erased ones first."""

    c_p: Condition
    c_s: Condition
    """Loss texts: concepts to erase, then kept texts."""
    num_erase: int


class TextBank:
    """Every text that training uses, encoded once.

    A concept may have several erase texts; each of them is one unit of the cycle.
    """

    def __init__(
        self, backbone: Backbone, concepts: tuple[ConceptPlan, ...], keep: tuple[str, ...]
    ) -> None:
        self.units = [(text, concept) for concept in concepts for text in concept.erase]
        joined = ", ".join(text for text, _ in self.units)
        self.null = backbone.encode([""])
        self.joined = backbone.encode([joined])
        self.each = backbone.encode([text for text, _ in self.units])
        self.phrasings = [
            backbone.encode(_phrasings_of(text, concept)) for text, concept in self.units
        ]
        self.keep = backbone.encode(keep) if keep else None

    def kept_tokens(self) -> Condition:
        """The kept texts and the empty prompt."""
        return self.null if self.keep is None else Condition.cat([self.keep, self.null])

    def draw(self, index: int, params: SddParams, generator: torch.Generator) -> Batch:
        """The texts of rollout number ``index``."""
        num_keep = round(params.keep_share * params.batch_size) if self.keep is not None else 0
        num_erase = params.batch_size - num_keep
        if params.order == "cyclic":
            units = (torch.arange(num_erase) + index * num_erase) % len(self.units)
        else:
            units = torch.randint(len(self.units), (num_erase,), generator=generator)
        c_p = self._rows(params.rollout_text, units, generator)
        c_s = self._rows(params.loss_text, units, generator)
        if num_keep and self.keep is not None:
            kept = self.keep.rows(torch.randint(len(self.keep), (num_keep,), generator=generator))
            c_p, c_s = Condition.cat([c_p, kept]), Condition.cat([c_s, kept])
        return Batch(c_p, c_s, num_erase)

    def _rows(self, role: str, units: Tensor, generator: torch.Generator) -> Condition:
        if role == "joined":
            return self.joined.repeat(len(units))
        if role == "each":
            return self.each.rows(units)
        parts = []
        for unit in units.tolist():
            bank = self.phrasings[unit]
            row = int(torch.randint(len(bank), (), generator=generator))
            parts.append(bank.rows(slice(row, row + 1)))
        return Condition.cat(parts)


def _phrasings_of(text: str, concept: ConceptPlan) -> list[str]:
    """The concept's phrasings that hold this erase text; all of them if none names it."""
    return [p for p in concept.phrasings if text in p] or list(concept.phrasings) or [text]
