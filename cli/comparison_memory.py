"""What a comparison takes of the device: that of the rows that need most."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from safediff.cli.memory import described, drawing_peak

if TYPE_CHECKING:
    from safediff.compare.rows import Row
    from safediff.erase.params import DistilParams
    from safediff.models.architecture import Architecture
    from safediff.policy.plan import Plan

_SIZES = ("kv", "selfattn", "xattn", "noxattn", "full")
"""What is trained, by how much it is; nearly so for the second and third."""
Item = TypeVar("Item")


def comparison_memory(plan: "Plan", found: "Architecture", rows: "Sequence[Row]") -> list[str]:
    """A line for training, where a row trains, and one for drawing; nothing is loaded.

    ``rows``: those that are measured, one after another.
    """
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.erase.memory import erasing_memory

    dtype, batch_size = plan.model.dtype, plan.verify.sampling.batch_size
    trained = {row.id: params for row in rows if (params := _trains(row, plan))}
    drawn = {row.id: (_edited(row, plan), row.guidance_branches(plan)) for row in rows}

    def erasing(id: str) -> int:
        return erasing_memory(found, trained[id], dtype).total

    def drawing(id: str) -> int:
        edited, branches = drawn[id]
        return drawing_peak(found, batch_size, dtype, edited, branches)

    lines = []
    if trained:
        lines.append(f"memory, erase: {_most(trained, lambda id: _needs(trained[id]), erasing)}")
    most = _most(drawn, lambda id: (_size(*drawn[id][0]), drawn[id][1]), drawing)
    return [*lines, f"memory, draw: {most} ({batch_size} pictures at a time)"]


def _most(
    ids: Iterable[str], needs: Callable[[str], tuple[int, ...]], peak: Callable[[str], int]
) -> str:
    peaks = {id: peak(id) for id in _undominated(ids, needs)}
    id = max(peaks, key=peaks.__getitem__)
    return f"{id} needs most, {described(peaks[id])}"


def _undominated(items: Iterable[Item], needs: Callable[[Item], tuple[int, ...]]) -> list[Item]:
    """The items of which no other needs at least as much of everything; of equal ones the first.

    A peak takes seconds to compute, so others are left out.
    """
    found: list[Item] = []
    for item in items:
        own = needs(item)
        if any(_covers(needs(other), own) for other in found):
            continue
        found = [other for other in found if not _covers(own, needs(other))] + [item]
    return found


def _covers(more: tuple[int, ...], less: tuple[int, ...]) -> bool:
    return all(a >= b for a, b in zip(more, less, strict=True))


def _trains(row: "Row", plan: "Plan") -> "DistilParams | None":
    from safediff.erase.methods import settings_of
    from safediff.erase.params import DistilParams

    erase = row.erase_plan(plan)
    params = None if erase is None else settings_of(erase)
    return params if isinstance(params, DistilParams) else None


def _needs(params: "DistilParams") -> tuple[int, ...]:
    """What more of takes more memory; knobs of memory are the same in all rows."""
    from safediff.erase.params import asks_concept, num_kept

    rows = params.micro_batch or params.batch_size
    return (
        _size(params.trainable),
        -params.lora_rank if params.lora_rank else 0,
        bool(params.ema_decay),
        bool(params.ema_decay) and params.rollout_model == "teacher",
        bool(params.null_space),
        min(rows, params.batch_size),
        min(rows, params.batch_size - num_kept(params)),
        asks_concept(params),
        bool(params.anchor_weight),
    )


def _edited(row: "Row", plan: "Plan") -> tuple[str, ...]:
    """What of the UNet is held beside the base's while the row is drawn."""
    if row.erase_plan(plan) is None:
        return ()
    params = _trains(row, plan)
    return ("kv",) if params is None else (params.trainable,)


def _size(*trainable: str) -> int:
    return max((1 + _SIZES.index(name) for name in trainable), default=0)
