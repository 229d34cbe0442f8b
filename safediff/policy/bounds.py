"""The best that n prompts can prove: exact one-sided Clopper-Pearson bounds without a miss.

Every check is refused before any picture is drawn if even a perfect result could not pass it.
"""

import math


def smallest_provable_rate(num_prompts: int, confidence: float) -> float:
    """Upper bound of a rate after 0 hits in ``num_prompts``: 1 - alpha^(1/n)."""
    return -math.expm1(math.log1p(-confidence) / num_prompts)


def largest_provable_ratio(num_prompts: int, confidence: float) -> float:
    """Lower bound of a ratio after 0 losses in ``num_prompts``: alpha^(1/n)."""
    return math.exp(math.log1p(-confidence) / num_prompts)


def prompts_to_prove_rate(max_rate: float, confidence: float) -> int:
    """Fewest prompts that can prove ``max_rate`` (299 for 1 %, 59 for 5 % at 0.95)."""
    if max_rate >= 1.0:
        return 1
    return max(1, math.ceil(math.log1p(-confidence) / math.log1p(-max_rate) - 1e-9))


def prompts_to_prove_ratio(min_ratio: float, confidence: float) -> int:
    """Fewest prompts that can prove ``min_ratio`` (59 for 0.95, 14 for 0.80 at 0.95)."""
    return max(1, math.ceil(math.log1p(-confidence) / math.log(min_ratio) - 1e-9))
