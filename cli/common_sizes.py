"""What erasing takes at the sizes of Stable Diffusion, computed beforehand by the memory model.

Computing it anew takes half a minute on a processor; a test holds these numbers against the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CommonSize:
    """A family at the size of its pictures."""

    title: str
    pass_flops: float
    peaks: Mapping[str, int]
    """Bytes without the driver's, by preset of ``sdd``: model in bfloat16, with the lean knobs."""


COMMON_SIZES = (
    CommonSize("SD 1.x, 512 px", 8.033e11, {"paper": 2_563_727_268, "fast": 2_293_036_328}),
    CommonSize("SD 2.x, 768 px", 2.1491e12, {"paper": 2_859_206_052, "fast": 2_612_632_360}),
    CommonSize("SDXL, 1024 px", 6.7612e12, {"paper": 14_960_966_764, "fast": 12_169_740_016}),
)
