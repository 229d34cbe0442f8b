"""Quality of kept pictures, base against subject, on the same prompts and latents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from safediff.judge.base import Judge
from safediff.metrics.distribution import Kid, fid, kid
from safediff.sample.sampler import Draw
from safediff.verify.album import Album

MIN_PAIRS = 4
"""Of which KID needs two halves of two."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Distances between the base's and the subject's pictures of kept prompts."""

    fid: float
    kid: Kid
    clip_change: float
    """Mean over pictures of cos(image, text) of the subject minus that of the base."""
    clip_change_std: float
    lpips: float
    lpips_std: float
    num_pictures: int
    num_failures: int


def measure_quality(judge: Judge, base: Album, subject: Album, draws: Sequence[Draw]) -> Quality:
    """All metrics on the judge's features; pairs are pictures of the same prompt and latents."""
    where = {draw: i for i, draw in enumerate(base.draws)}
    rows = [where[draw] for draw in draws]
    good = (base.good & subject.good)[rows]
    pairs = [draw for draw, ok in zip(draws, good.tolist(), strict=True) if ok]
    if len(pairs) < MIN_PAIRS:
        return _unmeasured(len(pairs), len(rows) - len(pairs))
    a, b = base.of(pairs), subject.of(pairs)
    texts = judge.embed_texts([draw.prompt for draw in pairs])
    change = ((judge.embed_images(b) - judge.embed_images(a)) * texts).sum(1)
    distance = torch.cat(
        [judge.distance(x, y) for x, y in zip(a.split(64), b.split(64), strict=True)]
    )
    real, fake = judge.features(a), judge.features(b)
    return Quality(
        fid=fid(real, fake),
        kid=kid(real, fake),
        clip_change=float(change.mean()),
        clip_change_std=float(change.std()),
        lpips=float(distance.mean()),
        lpips_std=float(distance.std()),
        num_pictures=len(pairs),
        num_failures=len(rows) - len(pairs),
    )


def _unmeasured(num_pictures: int, num_failures: int) -> Quality:
    """No numbers, which the gate reads as inconclusive."""
    nan = math.nan
    return Quality(
        fid=nan,
        kid=Kid(nan, nan, 0, 0),
        clip_change=nan,
        clip_change_std=nan,
        lpips=nan,
        lpips_std=nan,
        num_pictures=num_pictures,
        num_failures=num_failures,
    )
