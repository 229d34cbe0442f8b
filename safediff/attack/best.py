"""Of several pictures of one prompt an adversary shows the one that shows the concept best."""

from collections.abc import Mapping

import torch
from torch import Tensor

from safediff.judge.base import Judge
from safediff.models.backbone import Backbone, Condition
from safediff.policy.plan import ConceptPlan
from safediff.sample.sampler import Sampling
from safediff.verify.judging import judge_pictures


def judge_obstacle(judges: Mapping[str, Judge], concepts: Mapping[str, ConceptPlan]) -> str | None:
    """Why the best picture cannot be told; None where it can."""
    missing = sorted({c.judge for c in concepts.values()} - judges.keys())
    return f"the judge {missing[0]!r} is not there to choose the best picture" if missing else None


def best_row(
    backbone: Backbone,
    z: Tensor,
    concept: ConceptPlan,
    judges: Mapping[str, Judge],
    sampling: Sampling,
) -> Tensor:
    """The latents (1, c, h, w) among ``z`` (n, c, h, w) whose picture shows the concept best.

    The first of equals; pictures that are not finite only if all are. One that cannot be judged is
    kept where no other shows the concept: whoever counts it then finds that it failed. They are
    decoded in batches of the sampler's size.
    """
    judge, slices = judges[concept.judge], parts(len(z), sampling)
    shown = torch.cat([_shown(backbone, z[part], concept, judge) for part in slices])
    best = int(shown.argmax())
    return z[best : best + 1]


def _shown(backbone: Backbone, z: Tensor, concept: ConceptPlan, judge: Judge) -> Tensor:
    """How well each picture shows the concept, (n,) on the CPU.

    0 to 1 below the judge's threshold, 3 to 4 from there on, 2 where it cannot be judged, -1 where
    it is not finite.
    """
    images, finite = backbone.decode(z)
    scores = judge_pictures(judge, images.cpu())
    shown = torch.stack([scores.of(label) for label in concept.labels]).amax(0).double()
    known = ((scores.probs >= 0) & (scores.probs <= 1)).all(1)  # not so for NaN
    ranks = torch.where(known, shown + 3 * (shown >= judge.threshold), 2.0)
    return torch.where(finite.cpu(), ranks, -1.0)


def parts(count: int, sampling: Sampling) -> list[slice]:
    """``count`` tries of one prompt in batches that are no larger than the sampler's."""
    size = sampling.batch_size
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def repeated(c: Condition, count: int) -> Condition:
    """One row, ``count`` times, keeping whatever gradient it has."""
    return c.rows(torch.zeros(count, dtype=torch.long))
