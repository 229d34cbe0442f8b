"""Expected device memory, as rows of a table."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safediff.policy.plan import Plan

CARDS_GB = (8, 16, 24, 40, 80)
LEAN: dict[str, Any] = {"gradient_checkpointing": True, "micro_batch": 1}
"""The knobs that save memory and change nothing else."""


def memory_rows(plan: "Plan") -> list[tuple[str, str]]:
    """What erasing and verifying a plan are expected to take; nothing is loaded."""
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.erase.memory import erasing_memory, sampling_memory
    from safediff.erase.methods import resolve
    from safediff.erase.params import DistilParams, Trainable
    from safediff.models.architecture import find_architecture

    found = find_architecture(plan.model)
    if found is None:
        return [("memory", "not estimated: the architecture is known only once it is loaded")]
    params, rows = resolve(plan.erase.method, plan.erase.preset, plan.erase.options), []
    edited: tuple[Trainable, ...] = ("kv",)  # what closed forms change, at most
    if isinstance(params, DistilParams):
        edited = (params.trainable,) * (2 if params.ema_decay else 1)
        erasing = erasing_memory(found, params, plan.model.dtype).total
        rows.append(("memory, erase", described(erasing)))
    batch_size = plan.verify.sampling.batch_size
    drawing = sampling_memory(found, batch_size, plan.model.dtype, edited).total
    rows.append(("memory, verify", f"{described(drawing)} ({batch_size} pictures at a time)"))
    return rows


def lean_rows() -> list[tuple[str, str]]:
    """What erasing takes at the least, for the common sizes: memory and hours."""
    from dataclasses import replace

    from safediff.cli.hours import Hours
    from safediff.erase.memory import erasing_memory
    from safediff.erase.params import PRESETS
    from safediff.models.architecture import SD1, SDXL
    from safediff.policy.cost import distil_passes

    params = replace(PRESETS["sdd"]["fast"], **LEAN)
    passes = distil_passes(params)
    names = {"SD 1.x, 512 px": SD1, "SDXL, 1024 px": SDXL}
    rows = []
    for name, found in names.items():
        memory, hours = erasing_memory(found, params, "bfloat16").total, Hours.of(found)
        rows.append((f"memory to erase, {name}", described(memory)))
        rows.append((f"time to erase, {name}", f"{hours(passes):.2f} h, {hours.rests_on}"))
    return rows


def described(num_bytes: int) -> str:
    """In GiB, with the driver's allowance, and where it fits."""
    from safediff.erase.memory import DRIVER, GIB

    total = (num_bytes + DRIVER) / GIB
    card = next((f"fits {size} GB" for size in CARDS_GB if total <= size), "fits no single card")
    return f"about {total:.1f} GiB at the peak, {card}{_here(total)}"


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
