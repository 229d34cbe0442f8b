"""Expected device memory, as rows of a table."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safediff.erase.params import DistilParams
    from safediff.models.architecture import Architecture
    from safediff.policy.plan import Plan

Row = tuple[str, str]
CARDS_GB = (8, 16, 24, 40, 80)
COMMON_GIB = 24
"""A peak beyond this gets advice where there is no GPU to hold it against."""
NOT_ESTIMATED = "not estimated: the architecture is known only once it is loaded"
LEAN: dict[str, Any] = {"gradient_checkpointing": True, "micro_batch": 1, "offload_average": True}
"""The knobs that save memory and change nothing else."""
LEAST: dict[str, Any] = {**LEAN, "trunk_dtype": "bfloat16", "offload": True}
"""With the precision of the frozen UNet."""


def memory_rows(plan: "Plan") -> list[Row]:
    """What erasing and verifying a plan are expected to take; nothing is loaded.

    A peak that does not fit gets a row of what would take less.
    """
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.erase.methods import resolve
    from safediff.erase.params import DistilParams, Trainable
    from safediff.models.architecture import find_architecture

    found = find_architecture(plan.model)
    if found is None:
        return [("memory", NOT_ESTIMATED)]
    params = resolve(plan.erase.method, plan.erase.preset, plan.erase.options)
    rows: list[Row] = []
    edited: tuple[Trainable, ...] = ("kv",)  # what closed forms change, at most
    if isinstance(params, DistilParams):
        edited = (params.trainable,) * (2 if params.ema_decay else 1)
        rows += _erasing_rows(found, params, plan.model.dtype)
    return rows + _drawing_rows(found, plan, edited)


def _erasing_rows(found: "Architecture", params: "DistilParams", dtype: str) -> list[Row]:
    from dataclasses import replace

    from safediff.erase.memory import erasing_memory

    peak = erasing_memory(found, params, dtype).total
    rows = [("memory, erase", described(peak))]
    if fits(peak):
        return rows
    least = replace(params, **LEAST)
    advice = "gradient_checkpointing, micro_batch 1, offload_average, trunk_dtype bfloat16, offload"
    if least == params:
        advice = f"{advice} are set: take a larger card, or train less (trainable: kv, lora_rank)"
    else:
        advice = f"with {advice}: {described(erasing_memory(found, least, dtype).total)}"
    return [*rows, ("less memory, erase", advice)]


def _drawing_rows(found: "Architecture", plan: "Plan", edited: Any) -> list[Row]:
    from safediff.guard.params import planned_branches

    branches = planned_branches(plan.guard)

    def peak(batch_size: int) -> int:
        return drawing_peak(found, batch_size, plan.model.dtype, edited, branches)

    count = plan.verify.sampling.batch_size
    whole = peak(count)
    rows = [("memory, verify", f"{described(whole)} ({count} pictures at a time)")]
    if not fits(whole) and count > 1:
        advice = f"with verify.sampling.batch_size 1: {described(peak(1))}"
        rows.append(("less memory, verify", advice))
    return rows


def drawing_peak(
    found: "Architecture", batch_size: int, dtype: str, edited: Any, branches: int
) -> int:
    """Bytes while pictures are drawn; of the base, which has no guard, in two branches."""
    from safediff.erase.memory import sampling_memory
    from safediff.guard.base import num_calls

    rows = batch_size * -(-branches // num_calls(branches, batch_size))
    return sampling_memory(found, batch_size, dtype, edited, branches, rows).total


def lean_rows() -> list[Row]:
    """What erasing takes at the least, for the common sizes and presets: memory and hours."""
    from safediff.cli.common_sizes import COMMON_SIZES
    from safediff.cli.hours import Hours, card_here, estimated_for
    from safediff.erase.params import PRESETS
    from safediff.policy.cost import distil_passes

    card = card_here()
    settings = (
        "with dtype bfloat16, gradient_checkpointing, micro_batch 1, offload_average; start from "
        f"preset paper: fast was tuned on the embedded model; hours {estimated_for(card)}"
    )
    rows = [("memory, time to erase", settings)]
    for size in COMMON_SIZES:
        hours = Hours(size.pass_flops, card)
        for preset, peak in size.peaks.items():
            time = f"{hours(distil_passes(PRESETS['sdd'][preset])):.2f} h"
            rows.append((f"{size.title}, {preset}", f"{described(peak)}; {time}"))
    return rows


def described(num_bytes: int) -> str:
    """In GiB, with the driver's allowance, and where it fits."""
    total = with_driver(num_bytes)
    card = next((f"fits {size} GB" for size in CARDS_GB if total <= size), "fits no single card")
    return f"about {total:.1f} GiB at the peak, {card}{_here(total)}"


def fits(num_bytes: int) -> bool:
    """On the GPU present; where there is none, on a common one."""
    here = device_memory()
    return with_driver(num_bytes) <= (here[1] if here else COMMON_GIB)


def with_driver(num_bytes: int) -> float:
    """GiB, with the driver's allowance."""
    from safediff.erase.memory import DRIVER, GIB

    return (num_bytes + DRIVER) / GIB


def device_memory() -> tuple[float, float] | None:
    """Free and whole memory of the GPU in GiB; None without one."""
    import torch

    from safediff.erase.memory import GIB

    if not torch.cuda.is_available():
        return None
    free, whole = torch.cuda.mem_get_info()
    return free / GIB, whole / GIB


def _here(total: float) -> str:
    found = device_memory()
    if found is None:
        return ""
    word = "fits" if total <= found[1] else "does not fit"
    return f", {word} here ({found[1]:.0f} GiB)"
