"""Which weights of a model lie in a plan, found byte by byte; needs no GPU.

A builder keeps most weights as they are, some transposed, some joined with those of layers that
read the same input (then a row of one is followed by a row of the other), and queries multiplied by
the scale of their attention. What it tiles or fuses otherwise is not found, and counts as such.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.export.signature import UNET_PREFIX
from safediff.models.patch import state_sha256

Bytes = NDArray[np.uint8]
WORD = 4
"""Bytes; weights begin at a multiple of it. They are looked for by their first two words."""
CHUNK_WORDS = 1 << 24
MOST_PLACES = 1000
"""Of one pair of words; one that is everywhere tells nothing."""
MIN_FOUND = {"tensorrt_rtx": 0.8}
"""Share of the tensors, by module; TensorRT's own plans were not looked at."""
PLAN_TYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """How many tensors lie in a plan byte by byte."""

    found: int
    of: int
    edited_found: int | None = None
    """Of those that erasing changed; None where the base is not known."""
    edited_of: int | None = None
    base_found: int | None = None
    """Tensors that erasing changed and that lie there as the base has them; must be none."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def prove_plan(plan: Path, sidecar: Mapping[str, Any], state: Mapping[str, Tensor]) -> Found:
    """Hold a plan against the weights that it should have.

    Args:
        plan: The file, whose hash was compared with that in ``sidecar``.
        sidecar: What was written beside it.
        state: The whole state of the UNet.

    Raises:
        UsageError: it was built from other weights, or too few of these lie in it.
    """
    cast = cast_state(state, sidecar["precision"])
    if (expected := state_sha256(cast)) != sidecar["weights_sha256"]:
        raise UsageError(
            f"{plan}: was built from weights {sidecar['weights_sha256'][:12]}, these are "
            f"{expected[:12]}",
            "build it again from the release",
        )
    found = len(held(plan, cast))
    require_enough(plan, sidecar["kind"], found, len(cast))
    if found != (said := sidecar["weights_found"]["found"]):
        raise UsageError(
            f"{plan}: {found} of {len(cast)} weights lie in it, its sidecar says {said}",
            "build it again from the release",
        )
    return Found(found=found, of=len(cast))


def find_weights(
    plan: Path, precision: str, state: Mapping[str, Tensor], base: Mapping[str, Tensor] | None
) -> Found:
    """Count what lies in a plan that was just built.

    Args:
        plan: The file.
        precision: A key of ``PLAN_TYPES``.
        state: The whole state of the UNet.
        base: That of the base; None where it is not known.

    Raises:
        Inconclusive: a tensor that erasing changed lies there as the base has it.
    """
    cast = cast_state(state, precision)
    names = held(plan, cast)
    if base is None:
        return Found(found=len(names), of=len(cast))
    old = cast_state(base, precision)
    edited = {key for key in cast if not torch.equal(cast[key], old[key])}
    revived = held(plan, {key: old[key] for key in edited})
    if revived:
        raise Inconclusive(
            f"{plan}: holds {UNET_PREFIX}{min(revived)} of the base, which erasing changed",
            "build it again from the erased model",
        )
    return Found(
        found=len(names),
        of=len(cast),
        edited_found=len(names & edited),
        edited_of=len(edited),
        base_found=0,
    )


def require_enough(plan: Path, kind: str, found: int, of: int) -> None:
    """Refuse a plan that holds fewer of the weights than every plan of its kind did.

    Raises:
        UsageError: see above.
    """
    if found < MIN_FOUND.get(kind, 0.0) * of:
        raise UsageError(
            f"{plan}: only {found} of {of} weights of the model lie in it byte by byte",
            "it is a plan of another model, or its builder is unknown here: use --onnx",
        )


def cast_state(state: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """The weights as a plan of that precision has them."""
    dtype = PLAN_TYPES[precision]
    return {key: w.detach().to("cpu", dtype).contiguous() for key, w in state.items()}


def held(plan: Path, state: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that lie in a plan, in one of the forms of ``_forms``."""
    data: Bytes = np.memmap(plan, np.uint8, "r")
    forms = [(name, form) for name, tensor in state.items() for form in _forms(name, tensor)]
    words = {_word(row) for _, form in forms for row in form[:2]}
    places = _places(data, np.array(sorted(words), np.uint64))
    return {name for name, form in forms if _lies(data, form, places)}


def _forms(name: str, tensor: Tensor) -> Iterator[Bytes]:
    """A tensor as rows of bytes: as it is, turned round, channels last, scaled."""
    if tensor.ndim == 0:
        return
    if tensor.ndim != 2:
        orders = [(0, 2, 3, 1)] if tensor.ndim == 4 else []
        for order in (tuple(range(tensor.ndim)), *orders):
            yield _raw(tensor.permute(order).reshape(1, -1))
        return
    yield _raw(tensor)
    yield _raw(tensor.T)
    if name.endswith(".to_q.weight"):
        for size in range(1, 257):
            if len(tensor) % size == 0:
                scale = torch.tensor(size, dtype=torch.float64).rsqrt().to(tensor.dtype)
                yield _raw((tensor * scale).T)


def _raw(rows: Tensor) -> Bytes:
    """Rows (r, c) as bytes (r, c * size)."""
    found: Bytes = rows.contiguous().view(torch.uint8).numpy()
    return found


def _word(row: Bytes) -> int:
    return int.from_bytes(row[: 2 * WORD].tobytes(), "little")


def _places(data: Bytes, words: NDArray[np.uint64]) -> dict[int, list[int]]:
    """Where in ``data`` each of some pairs of words lies, in bytes, in one pass."""
    table = np.zeros(1 << 16, bool)
    table[_hash(words)] = True
    found: dict[int, list[int]] = {int(word): [] for word in words}
    whole = data[: len(data) // WORD * WORD].view(np.uint32)
    for start in range(0, len(whole) - 1, CHUNK_WORDS):
        chunk = whole[start : start + CHUNK_WORDS + 1].astype(np.uint64)
        pairs = chunk[:-1] | chunk[1:] << np.uint64(32)
        likely = np.flatnonzero(table[_hash(pairs)])
        values = pairs[likely]
        at = np.searchsorted(words, values).clip(max=len(words) - 1)
        same = words[at] == values
        for value, place in zip(values[same].tolist(), likely[same].tolist(), strict=True):
            if len(found[value]) < MOST_PLACES:
                found[value].append((start + place) * WORD)
    return found


def _hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sixteen bits that depend on all of a word."""
    mixed: NDArray[np.uint64] = (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(48)
    return mixed


def _lies(data: Bytes, form: Bytes, places: Mapping[int, list[int]]) -> bool:
    """Whether all rows lie in ``data`` at one distance from each other."""
    count, size = form.shape
    for first in places[_word(form[0])]:
        if not np.array_equal(data[first : first + size], form[0]):
            continue
        if count == 1:
            return True
        for second in places[_word(form[1])]:
            stride = second - first
            end = first + (count - 1) * stride + size
            if stride < size or end > len(data):
                continue
            rows = np.lib.stride_tricks.as_strided(
                data[first:end], (count, size), (stride, 1), writeable=False
            )
            if np.array_equal(rows, form):
                return True
    return False
