"""NEG: the negative prompt. All texts, joined, take the place of the empty prompt."""

from dataclasses import dataclass

from safediff.guard.base import ClassifierFree, Guard, Guidance
from safediff.guard.params import NegParams
from safediff.models.backbone import Backbone, Condition


@dataclass(frozen=True, kw_only=True)
class Negative(Guard):
    """e = e_s + s_g (e_c - e_s)."""

    params: NegParams

    def _start(self, backbone: Backbone, c_0: Condition, c: Condition, scale: float) -> Guidance:
        """See ``Guard``."""
        c_s = backbone.encode(self.params.branch_texts(self.texts))
        return ClassifierFree([c_s.repeat(len(c)), c], scale)
