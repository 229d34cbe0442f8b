"""Counts the bytes of all live tensors, operation by operation."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Within, every storage that an operation makes is counted until it is freed.

    It counts what PyTorch asks its allocator for, on any device and for fake tensors too. What
    kernels take inside themselves, and the driver, is not seen.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """``known``: tensors that are there already and count from the start."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        for tensor in known:
            self._watch(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and look at what it returns."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:
            return out
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._watch(leaf)
        return out

    def reset_peak(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def freed(_: Any) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)
