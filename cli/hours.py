"""GPU hours of UNet passes, estimated from what a pass computes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safediff.models.architecture import Architecture

_GPU = "estimated for one RTX 4070"


@dataclass(frozen=True)
class Hours:
    """Called with a number of passes of one model."""

    pass_flops: float
    rests_on: str
    """What the estimate holds for."""

    @classmethod
    def of(cls, architecture: "Architecture") -> "Hours":
        """By the FLOPs of a pass; nothing is loaded."""
        from safediff.cli.quiet_libraries import quiet_libraries

        quiet_libraries()
        from safediff.models.skeleton import pass_flops

        flops = pass_flops(architecture)
        return cls(flops, f"{_GPU} at {flops / 1e12:.1f} TFLOP a pass")

    def __call__(self, num_passes: int) -> float:
        """Hours."""
        from safediff.policy.cost import gpu_hours

        return gpu_hours(num_passes, self.pass_flops)
