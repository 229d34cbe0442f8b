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
    def of(cls, architecture: "Architecture | None") -> "Hours":
        """By the FLOPs of a pass; nothing is loaded. None: as if it were Stable Diffusion 1.x."""
        from safediff.cli.quiet_libraries import quiet_libraries

        quiet_libraries()
        from safediff.models.skeleton import pass_flops
        from safediff.policy.cost import SD1_PASS_FLOPS

        if architecture is None:
            return cls(SD1_PASS_FLOPS, f"{_GPU} if a pass took as long as that of SD 1.x at 512 px")
        flops = pass_flops(architecture)
        return cls(flops, f"{_GPU} at {flops / 1e12:.1f} TFLOP a pass")

    def __call__(self, num_passes: int) -> float:
        """Hours."""
        from safediff.policy.cost import gpu_hours

        return gpu_hours(num_passes, self.pass_flops)
