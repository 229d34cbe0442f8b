"""Patches: the tensors that an eraser changed, by name, with the hash of their base."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from safediff.errors import FREE_SPACE, Inconclusive, UsageError

FORMAT = "safediff-patch/1"


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Changed tensors of a UNet."""

    tensors: Mapping[str, Tensor]
    base_sha256: str
    """``state_sha256`` of the UNet that the patch was made from."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def state_sha256(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """Hash of names, types, shapes and bytes of all tensors, independent of their order.

    ``dtype``: as if all that are floating-point were of it.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unet_sha256(unet: nn.Module) -> str:
    """``state_sha256`` of a UNet."""
    return state_sha256(unet.state_dict())


def save_patch(patch: Patch, path: Path) -> None:
    """Write safetensors, whole or not at all; the same patch gives the same bytes.

    Raises:
        Inconclusive: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "base_sha256": patch.base_sha256,
        "metadata": dict(patch.metadata),
    }
    # one key: safetensors writes several in an order that changes from process to process
    save_whole(patch.tensors, path, {"safediff": json.dumps(header, sort_keys=True)})


def save_whole(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    Raises:
        Inconclusive: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, temporary, metadata=metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise Inconclusive(
            f"{path}: cannot be written ({error})",
            FREE_SPACE,
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_patch(path: Path) -> Patch:
    """Read a patch.

    Raises:
        UsageError: the file does not exist or is not a patch.
        Inconclusive: the file is damaged.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such patch", "run `safediff erase POLICY` first")
    try:
        with safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get("safediff", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise Inconclusive(f"{path}: damaged patch: {error}", "erase again") from error
    header = json.loads(stored)
    if header.get("format") != FORMAT:
        raise UsageError(f"{path}: not a safediff patch", "give the patch.safetensors of a run")
    return Patch(
        tensors=tensors,
        base_sha256=header["base_sha256"],
        metadata=header["metadata"],
    )


@torch.no_grad()
def merge_patches(unet: nn.Module, patches: Sequence[Patch]) -> Patch:
    """One patch of several: W = W_0 + sum of (W_i - W_0), added in float64.

    Nothing says that the sum does what each of them does: measure it.

    Raises:
        UsageError: a patch belongs to another base, or names a tensor the UNet lacks.
    """
    base, tensors = unet.state_dict(), dict[str, Tensor]()
    found = unet_sha256(unet)
    for patch in patches:
        _require_base(patch, found)
        for name, tensor in patch.tensors.items():
            _require_tensor(name, base)
            w = base[name].double()
            tensors[name] = tensors.get(name, w) + (tensor.to(w) - w)
    merged = {name: w.to(base[name].dtype) for name, w in tensors.items()}
    return Patch(tensors=merged, base_sha256=found, metadata={"method": "merged"})


def stack_patches(first: Patch, second: Patch) -> Patch:
    """One patch of two, the second of which was made on top of the first.

    The caller vouches for that: ``second`` names the UNet with ``first`` as its base.
    """
    return Patch(
        tensors={**first.tensors, **second.tensors},
        base_sha256=first.base_sha256,
        metadata={"method": "sequential"},
    )


@torch.no_grad()
def apply_patch(unet: nn.Module, patch: Patch) -> Callable[[], None]:
    """Put the patch's tensors into ``unet``; the returned function puts the base back.

    Raises:
        UsageError: the patch belongs to another base, or names a tensor the UNet lacks.
    """
    _require_base(patch, unet_sha256(unet))
    state = unet.state_dict()
    for name in patch.tensors:
        _require_tensor(name, state)
    before = {name: state[name].clone() for name in patch.tensors}
    for name, tensor in patch.tensors.items():
        state[name].copy_(tensor)

    def remove() -> None:
        with torch.no_grad():
            for name, tensor in before.items():
                unet.state_dict()[name].copy_(tensor)

    return remove


def _require_base(patch: Patch, found: str) -> None:
    if found != patch.base_sha256:
        raise UsageError(
            f"the patch belongs to base {patch.base_sha256[:12]}, this UNet is {found[:12]}",
            "load the base model that the policy names",
        )


def _require_tensor(name: str, state: Mapping[str, Tensor]) -> None:
    if name not in state:
        raise UsageError(
            f"the patch names {name!r}, which this UNet lacks", "erase again with this version"
        )
