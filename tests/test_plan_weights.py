"""Weights lie in the bytes of a plan as they are, turned, joined or scaled, and nowhere else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.export import plan_weights
from safediff.export.plan_weights import Found, find_weights, held, prove_plan
from safediff.models.patch import state_sha256

GENERATOR = torch.Generator().manual_seed(0)
MATRIX = torch.randn(6, 10, generator=GENERATOR)
OTHER = torch.randn(6, 10, generator=GENERATOR)
KERNEL = torch.randn(4, 3, 3, 3, generator=GENERATOR)


def write(path: Path, *tensors: Tensor) -> Path:
    parts = [b"a header", *(t.contiguous().numpy().tobytes() for t in tensors), b"its end "]
    path.write_bytes(b"".join(parts))
    return path


FORMS: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "as it is": lambda: (MATRIX,),
    "turned": lambda: (MATRIX.T,),
    "joined before": lambda: (torch.cat([MATRIX, OTHER]),),
    "joined side by side": lambda: (torch.cat([OTHER.T, MATRIX.T], dim=1),),
    "after something": lambda: (torch.zeros(2), MATRIX),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_matrix_is_found(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    plan = write(tmp_path / "p", *(tensor.to(dtype) for tensor in FORMS[form]()))
    assert held(plan, {"w": MATRIX.to(dtype)}) == {"w"}
    for row, column in ((0, 0), (0, 9), (3, 5), (5, 9)):  # one element is another
        changed = MATRIX.to(dtype).clone()
        changed[row, column] *= 1.01
        assert held(plan, {"w": changed}) == set()


def test_kernels_vectors_and_scaled_queries(tmp_path: Path) -> None:
    scaled = MATRIX * torch.tensor(3.0).rsqrt()
    plan = write(tmp_path / "p", KERNEL.permute(0, 2, 3, 1), MATRIX[0], scaled.T)
    assert held(plan, {"k": KERNEL, "b": MATRIX[0], "x.to_q.weight": MATRIX}) == {
        "k",
        "b",
        "x.to_q.weight",
    }
    assert held(plan, {"x.to_k.weight": MATRIX}) == set()  # only queries are scaled
    assert held(plan, {"k": KERNEL.flip(0), "b": MATRIX[1]}) == set()


def test_it_is_found_across_the_parts_that_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_weights, "CHUNK_WORDS", 7)
    for gap in range(9):
        plan = write(tmp_path / "p", torch.zeros(gap), MATRIX)
        assert held(plan, {"w": MATRIX}) == {"w"}


def test_a_torn_plan_holds_less(tmp_path: Path) -> None:
    plan = write(tmp_path / "p", MATRIX)
    plan.write_bytes(plan.read_bytes()[:-12])  # the end, and the last element
    assert held(plan, {"w": MATRIX}) == set()
    plan.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        held(plan, {"w": MATRIX})


def test_edited_weights_are_counted_and_those_of_the_base_refused(tmp_path: Path) -> None:
    safe, base = {"a": MATRIX, "b": KERNEL}, {"a": OTHER, "b": KERNEL}
    found = find_weights(write(tmp_path / "p", MATRIX, KERNEL), "fp32", safe, base)
    assert found == Found(found=2, of=2, edited_found=1, edited_of=1, base_found=0)
    found = find_weights(write(tmp_path / "p", KERNEL), "fp32", safe, base)
    assert (found.found, found.edited_found, found.edited_of) == (1, 0, 1)
    found = find_weights(write(tmp_path / "p", KERNEL), "fp32", safe, None)
    assert (found.found, found.edited_of) == (1, None)
    with pytest.raises(Inconclusive, match=r"holds unet\.a of the base, which erasing changed"):
        find_weights(write(tmp_path / "p", MATRIX, KERNEL, OTHER), "fp32", safe, base)


def sidecar(count: int, state: dict[str, Tensor], kind: str = "tensorrt_rtx") -> dict[str, object]:
    return {
        "kind": kind,
        "precision": "fp32",
        "weights_sha256": state_sha256(state),
        "weights_found": {"found": count, "of": len(state)},
    }


def test_a_plan_is_proved_against_the_certified_weights(tmp_path: Path) -> None:
    state = {"a": MATRIX, "b": KERNEL}
    plan = write(tmp_path / "p", MATRIX, KERNEL)
    assert prove_plan(plan, sidecar(2, state), state).found == 2
    with pytest.raises(UsageError, match="was built from weights"):
        prove_plan(plan, sidecar(2, state), {"a": OTHER, "b": KERNEL})
    with pytest.raises(UsageError, match="2 of 2 weights lie in it, its sidecar says 1"):
        prove_plan(plan, sidecar(1, state), state)
    other = {"a": OTHER, "b": KERNEL}  # its sidecar was forged, its bytes were not
    with pytest.raises(UsageError, match="only 1 of 2 weights of the model lie in it"):
        prove_plan(plan, sidecar(2, other), other)
    with pytest.raises(UsageError, match="1 of 2 weights lie in it, its sidecar says 2"):
        prove_plan(plan, sidecar(2, other, "tensorrt"), other)
