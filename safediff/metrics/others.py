"""Metrics of other packages, and what is asked of their answers."""

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor

from safediff.errors import Inconclusive
from safediff.metrics.registry import METRICS

PairMetric = Callable[[Tensor, Tensor, Sequence[str]], Tensor]


def measure_other(name: str, base: Tensor, subject: Tensor, prompts: Sequence[str]) -> Tensor:
    """Distance (n,) of every pair of uint8 pictures (n, 3, H, W), in float64.

    Raises:
        Inconclusive: the metric cannot be imported, fails, or gives something else than n finite
            numbers.
    """
    metric = cast(PairMetric, METRICS.load(name))
    if not callable(metric):
        raise Inconclusive(f"metric {name!r} is no function", "see docs/extending.md")
    try:
        found = metric(base, subject, prompts)
    except Exception as error:  # foreign code: whatever it raises, nothing was measured
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Inconclusive(f"metric {name!r} failed: {reason}", "ask its package") from error
    if not isinstance(found, Tensor) or found.shape != (len(prompts),):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise Inconclusive(
            f"metric {name!r} gave {shape}, not one number for each of {len(prompts)} pairs",
            "see docs/extending.md",
        )
    if not bool(found.isfinite().all()):
        raise Inconclusive(f"metric {name!r} gave a value that is not finite", "ask its package")
    return found.detach().cpu().double()
