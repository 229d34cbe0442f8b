"""The quality metrics by name. Imports no torch: policies are checked from here."""

from safediff.registry import Registry

METRICS = Registry("metric", "safediff.metrics")
"""Entry points of other packages are functions of the base's pictures, the subject's (uint8,
(n, 3, H, W), in pairs) and their prompts that give n distances: 0 for equal pictures."""

for _name in ("fid", "kid", "clip", "lpips", "null_drift"):
    METRICS.register(_name)
