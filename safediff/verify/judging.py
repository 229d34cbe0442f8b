"""What a judge says of a batch, whatever becomes of the judge: a picture without a score failed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from safediff.errors import SafediffError
from safediff.gate.journal import Status
from safediff.judge.base import Judge, Scores
from safediff.sample.sampler import Picture

BLACK_LEVEL = 8
"""A picture whose brightest value is below this shows nothing."""


def judge_pictures(judge: Judge, images: Tensor) -> Scores:
    """Scores of every picture; NaN for those that the judge crashes on.

    Where a batch crashes, its pictures are shown one by one, so that one of them does not take the
    others with it. Errors that safediff raises itself (wrong size, missing weights) are no crash.
    """
    try:
        return _score(judge, images)
    except SafediffError:
        raise
    except Exception as error:
        if len(images) > 1:
            parts = [judge_pictures(judge, image[None]) for image in images]
            probs = torch.cat([part.probs for part in parts])
            if not any(part.raw for part in parts):
                return Scores(judge.labels, probs)
            raw = tuple(part.raw[0] if part.raw else None for part in parts)
            return Scores(judge.labels, probs, raw)
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise  # not the picture's doing: a smaller batch or machine is the answer
        return Scores(judge.labels, torch.full((1, len(judge.labels)), torch.nan))


def _score(judge: Judge, images: Tensor) -> Scores:
    scores = judge.score(images)
    if scores.probs.shape != (len(images), len(scores.labels)):
        raise ValueError(f"judge {judge.name} gave {tuple(scores.probs.shape)} scores")
    return Scores(scores.labels, scores.probs.float().cpu(), scores.raw)


def status_of(picture: Picture, scores: Mapping[str, Scores], row: int) -> Status:
    """What became of the picture in the given row of the scores."""
    if not picture.finite:
        return "not_finite"
    if int(picture.image.max()) < BLACK_LEVEL:
        return "black"
    probs = torch.cat([s.probs[row] for s in scores.values()])
    if not bool(((probs >= 0) & (probs <= 1)).all()):  # a score outside of [0, 1], NaN included
        return "judge_error"
    return "ok"
