"""GPU hours of UNet passes, estimated from what a pass computes and how fast the GPU here is."""

from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safediff.models.architecture import Architecture

RTX_4070_TFLOPS = 58.3
"""Of the card that the known rate is of: bfloat16 products summed in float32. Computed: 184 tensor
cores, 128 operations a cycle each, 2.475 GHz."""
SIDE, NUM_WARM_UP, NUM_TIMED = 4096, 3, 5
"""Of the square matrices that are multiplied, and how often: hundredths of a second in all."""


@dataclass(frozen=True)
class Card:
    """A GPU and how fast it multiplies."""

    name: str
    tflops: float
    """In half precision, measured."""


@cache
def card_here() -> Card | None:
    """The GPU of this machine; None without one, or where it has no room for the measurement."""
    import torch

    if not torch.cuda.is_available():
        return None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if native else torch.float16
    try:
        a = torch.randn(SIDE, SIDE, dtype=dtype, device="cuda")
        for _ in range(NUM_WARM_UP):
            a @ a
        torch.cuda.synchronize()
        began = perf_counter()
        for _ in range(NUM_TIMED):
            a @ a
        torch.cuda.synchronize()
        seconds = perf_counter() - began
    except RuntimeError:  # out of memory: another program has it
        return None
    return Card(torch.cuda.get_device_name(), NUM_TIMED * 2 * SIDE**3 / seconds / 1e12)


@dataclass(frozen=True)
class Hours:
    """Called with a number of passes of one model."""

    pass_flops: float
    card: Card | None
    """What the estimate holds for; None: one RTX 4070."""

    @classmethod
    def of(cls, architecture: "Architecture") -> "Hours":
        """By the FLOPs of a pass; nothing is loaded."""
        from safediff.cli.quiet_libraries import quiet_libraries

        quiet_libraries()
        from safediff.models.skeleton import pass_flops

        return cls(pass_flops(architecture), card_here())

    def __call__(self, num_passes: int) -> float:
        """Hours."""
        from safediff.policy.cost import gpu_hours

        times = self.card.tflops / RTX_4070_TFLOPS if self.card else 1.0
        return gpu_hours(num_passes, self.pass_flops) / times

    @property
    def rests_on(self) -> str:
        """What the estimate holds for."""
        return f"{estimated_for(self.card)} at {self.pass_flops / 1e12:.1f} TFLOP a pass"


def estimated_for(card: Card | None) -> str:
    """The card that hours are of."""
    if card is None:
        return "estimated for one RTX 4070"
    speed = f"{card.tflops:.0f} TFLOPS in a matrix product; batches of 1 gain less"
    return f"estimated for the {card.name} here ({speed})"
