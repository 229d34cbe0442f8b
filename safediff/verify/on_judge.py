"""Metrics that are taken on the judge itself: what they ask of it, and whether it can give that.

Judges of other packages may have a score and nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.judge.base import Judge, lacks
from safediff.policy.plan import QualityCheck

TEXT = "a picture"


class Asked(NamedTuple):
    """What a metric asks of a judge."""

    members: tuple[str, ...]
    what: str
    """In words."""
    key: str
    """Of ``verify.quality``: names another source."""


_FEATURES = Asked(("features",), "features for FID and KID", "features")
_ASKED: Mapping[str, Asked] = {
    "fid": _FEATURES,
    "kid": _FEATURES,
    "clip": Asked(("embed_images", "embed_texts"), "space shared with texts", "clip_model"),
    "lpips": Asked(("distance",), "perceptual distance", "lpips_net"),
}


def taken_on_judge(check: QualityCheck) -> bool:
    """Whether a check needs more of the judge than its scores."""
    return check.features == "judge" and check.metric in _ASKED


def require_members(judge: Judge, check: QualityCheck) -> None:
    """Refuse a judge without what a check that is taken on it asks for.

    Raises:
        Inconclusive: it lacks something.
    """
    if not all(callable(getattr(judge, name, None)) for name in _ASKED[check.metric].members):
        raise _lacking(judge, check)


def prove_judge(judge: Judge, quality: Sequence[QualityCheck], size: tuple[int, int]) -> None:
    """Ask the judge once for what these checks are taken on, of an empty picture of this size.

    Args:
        judge: The one that quality is measured on.
        quality: Checks that are taken on it.
        size: Height and width in pixels.

    Raises:
        UsageError: it reads pictures of another size.
        Inconclusive: it cannot give something.
    """
    image = torch.zeros(1, 3, *size, dtype=torch.uint8)
    other: Mapping[str, tuple[Any, ...]] = {"embed_texts": ([TEXT],), "distance": (image, image)}
    for check in quality:
        require_members(judge, check)
        for name in _ASKED[check.metric].members:
            found = getattr(judge, name)(*other.get(name, (image,)))
            if not isinstance(found, Tensor) or len(found) != 1:
                raise _lacking(judge, check)


def _lacking(judge: Judge, check: QualityCheck) -> Inconclusive:
    asked = _ASKED[check.metric]
    return lacks(judge.name, asked.what, f"verify.quality.{asked.key}")
