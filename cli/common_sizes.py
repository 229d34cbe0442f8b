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
    CommonSize("SD 1.x, 512 px", 8.033e11, {"paper": 2_739_577_508, "fast": 2_369_713_448}),
    CommonSize("SD 2.x, 768 px", 2.1491e12, {"paper": 3_060_615_332, "fast": 2_714_868_520}),
    CommonSize("SDXL, 1024 px", 6.7612e12, {"paper": 17_143_648_364, "fast": 13_532_888_816}),
)
