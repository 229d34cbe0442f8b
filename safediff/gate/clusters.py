"""Several pictures of one prompt are not independent samples: effective sample sizes.

The design effect is 1 + (m - 1) * icc for m pictures per prompt, with the intraclass correlation
icc from one-way analysis of variance (Donner and Koval, 1980, Biometrics 36:19), clipped to
[0, 1]. Where it can't be estimated (one prompt, all pictures hit, none hit) it is 1: prompts are
counted, not pictures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from safediff.gate.paired import PairCounts, ratio, retained_lower
from safediff.gate.stats import Estimate, rate_lower, rate_upper

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def intraclass_correlation(values: Floats) -> float:
    """Correlation of two pictures of one prompt.

    Args:
        values: shape (prompts, pictures per prompt).

    Returns:
        A number in [0, 1]; 1 where it can't be estimated.
    """
    num_prompts, per_prompt = values.shape
    if num_prompts < 2 or per_prompt < 2:
        return 1.0
    means = values.mean(axis=1)
    between = float(per_prompt * means.var(ddof=1))
    within = float(values.var(axis=1, ddof=1).mean())
    spread = between + (per_prompt - 1) * within
    if spread == 0:
        return 1.0
    return float(np.clip((between - within) / spread, 0.0, 1.0))


def effective_size(values: Floats) -> float:
    """Number of independent samples that ``values`` (prompts, pictures per prompt) is worth."""
    per_prompt = values.shape[1]
    return float(values.size / (1 + (per_prompt - 1) * intraclass_correlation(values)))


def effective_n(hits_per_prompt: Sequence[int], images_per_prompt: int) -> float:
    """Effective number of samples behind a rate; the number of prompts if none or all are hits."""
    hits = np.asarray(hits_per_prompt)[:, None]
    return effective_size((np.arange(images_per_prompt) < hits).astype(np.float64))


def clustered_rate(
    hits_per_prompt: Sequence[int], images_per_prompt: int, confidence: float
) -> Estimate:
    """Estimate a rate from equally many pictures of each prompt.

    Exact bounds on the effective sample size. A first hit lets the correlation be estimated and
    would otherwise *lower* the upper bound; so that bound is never below what no hit at all on as
    many prompts would give, and likewise the lower bound never above the mirror image.

    Raises:
        ValueError: no prompts.
    """
    num_prompts = len(hits_per_prompt)
    if num_prompts == 0:
        raise ValueError("no prompts were drawn, expected at least 1")
    num_samples = num_prompts * images_per_prompt
    value = sum(hits_per_prompt) / num_samples
    size = effective_n(hits_per_prompt, images_per_prompt)
    return Estimate(
        value=value,
        lower=min(
            rate_lower(value * size, size, confidence),
            rate_lower(num_prompts, num_prompts, confidence),
        ),
        upper=max(
            rate_upper(value * size, size, confidence), rate_upper(0, num_prompts, confidence)
        ),
        num_samples=num_samples,
        confidence=confidence,
        interval="Clopper-Pearson, one-sided"
        if images_per_prompt == 1
        else "Clopper-Pearson on effective n, one-sided",
    )


def clustered_pairs(base_right: Bools, safe_right: Bools) -> PairCounts:
    """Count the four cells of (prompts, pictures per prompt) arrays, scaled to the effective size.

    The correlation is that of the paired difference safe - ratio * base, which is what the score
    statistic averages.
    """
    base, safe = base_right.astype(np.float64), safe_right.astype(np.float64)
    pairs = PairCounts(
        both=float((base * safe).sum()),
        gains=float((safe * (1 - base)).sum()),
        losses=float((base * (1 - safe)).sum()),
        neither=float(((1 - base) * (1 - safe)).sum()),
    )
    if base.shape[1] == 1:
        return pairs
    theta = safe.sum() / base.sum() if base.any() else 1.0
    return pairs.scaled(effective_size(safe - theta * base) / base.size)


def clustered_ratio(base_right: Bools, safe_right: Bools, confidence: float) -> Estimate:
    """Estimate the ratio of right pictures, (prompts, pictures per prompt), same seeds.

    As for rates, the lower bound is never above what as many prompts without a loss would give.

    Raises:
        ValueError: the base model was never right.
    """
    pairs = clustered_pairs(base_right, safe_right)
    found = ratio(pairs, confidence)._replace(num_samples=base_right.size)
    per_prompt = base_right.shape[1]
    if per_prompt == 1:
        return found
    prompts = PairCounts(both=float(base_right.sum()) / per_prompt, gains=0, losses=0, neither=0)
    return found._replace(lower=min(found.lower, retained_lower(prompts, confidence)))
