"""Patches: round trip, putting on and taking off, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_unet

from safediff.errors import Inconclusive, UsageError
from safediff.models.patch import (
    Patch,
    apply_patch,
    load_patch,
    save_patch,
    state_sha256,
    unet_sha256,
)

NAME = "conv_out.weight"


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet()


@pytest.fixture(scope="module")
def patch(unet: Any) -> Patch:
    return Patch(
        tensors={NAME: unet.state_dict()[NAME] + 1},
        base_sha256=unet_sha256(unet),
        metadata={"method": "sdd", "role": "teacher"},
    )


def test_round_trip(patch: Patch, tmp_path: Path) -> None:
    path = tmp_path / "patch.safetensors"
    save_patch(patch, path)
    found = load_patch(path)
    assert found.base_sha256 == patch.base_sha256
    assert found.metadata == patch.metadata
    assert found.tensors.keys() == patch.tensors.keys()
    assert torch.equal(found.tensors[NAME], patch.tensors[NAME])
    assert [file.name for file in tmp_path.iterdir()] == ["patch.safetensors"]


def test_putting_on_and_taking_off(unet: Any, patch: Patch) -> None:
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    remove = apply_patch(unet, patch)
    for name, value in unet.state_dict().items():
        expected = patch.tensors[name] if name == NAME else before[name]
        assert torch.equal(value, expected)
    with pytest.raises(UsageError, match="belongs to base"):
        apply_patch(unet, patch)
    remove()
    assert unet_sha256(unet) == patch.base_sha256


def test_patch_of_another_base_is_refused(patch: Patch) -> None:
    other = tiny_unet(seed=5)
    before = unet_sha256(other)
    with pytest.raises(UsageError, match="belongs to base"):
        apply_patch(other, patch)
    assert unet_sha256(other) == before


def test_patch_with_a_foreign_tensor_is_refused(unet: Any, patch: Patch) -> None:
    tensors = dict(patch.tensors) | {"conv_outer.weight": torch.zeros(1)}
    with pytest.raises(UsageError, match=r"conv_outer\.weight"):
        apply_patch(unet, Patch(tensors=tensors, base_sha256=patch.base_sha256))
    assert unet_sha256(unet) == patch.base_sha256


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such patch"):
        load_patch(tmp_path / "patch.safetensors")


def test_damaged_file(patch: Patch, tmp_path: Path) -> None:
    path = tmp_path / "patch.safetensors"
    save_patch(patch, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Inconclusive, match="damaged patch"):
        load_patch(path)


def test_file_that_is_no_patch(tmp_path: Path) -> None:
    path = tmp_path / "patch.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="not a safediff patch"):
        load_patch(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "safediff-patch/9", "m": json.dumps({})})
    with pytest.raises(UsageError, match="not a safediff patch"):
        load_patch(path)


def test_hash_covers_names_types_shapes_and_values() -> None:
    a, b = torch.arange(4.0), torch.ones(2, dtype=torch.bfloat16)
    expected = state_sha256({"a": a, "b": b})
    assert state_sha256({"b": b, "a": a.clone()}) == expected
    assert state_sha256({"a": torch.stack([a, a]).T[:, 0], "b": b}) == expected
    others: list[dict[str, torch.Tensor]] = [
        {"a": a, "c": b},
        {"a": a.reshape(2, 2), "b": b},
        {"a": a.view(torch.int32), "b": b},
        {"a": a + torch.tensor([0, 0, 0, 1e-6]), "b": b},
        {"a": a},
    ]
    assert len({expected, *map(state_sha256, others)}) == 1 + len(others)
