"""Runs a plan on the GPU that it was built for; stands where ``session.Session`` would.

Rows of a call beyond what the plan takes at once are computed in parts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.export.open_plan import open_plan

TYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}
SIZES = {"min": 0, "max": 2}
"""Places in a profile's triple."""


class PlanSession:
    """One opened plan."""

    def __init__(self, plan: Path, sha256: str | None = None) -> None:
        """Open it; its hash is compared first.

        Args:
            plan: The plan.
            sha256: What it was found to be when it was checked; None: what its sidecar says.

        Raises:
            UsageError: it is no plan that was built here, or needs another version of its module.
            Inconclusive: it can't be opened on this machine.
        """
        self.path = plan
        _, self._engine, self.sidecar = open_plan(plan, sha256)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise Inconclusive(
                f"{plan}: its buffers don't fit into the memory of the GPU", "free some of it"
            )
        self.device, self.provider = device(), "TensorRT"
        self.inputs = {t["name"]: _value(t) for t in self.sidecar["inputs"]}
        self.outputs = {t["name"]: _value(t) for t in self.sidecar["outputs"]}
        tensors = (*self.sidecar["inputs"], *self.sidecar["outputs"])
        self._dtypes = {t["name"]: TYPES[t["dtype"]] for t in tensors}
        self._profile: Mapping[str, list[list[int]]] = self.sidecar["profile"]
        sample = self._profile["sample"]
        self._rows = {name: sample[at][0] for name, at in SIZES.items()}

    def dtype(self, name: str) -> torch.dtype:
        """Type of an input or output."""
        return self._dtypes[name]

    def run(
        self, feeds: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """Compute.

        Args:
            feeds: Every input by name; those of the profile have one number of rows.
            shapes: The wanted outputs and their shapes; all outputs of a plan must be wanted.

        Raises:
            ValueError: a size lies outside the plan's profile.
            Inconclusive: the plan did not run.
        """
        held = {
            name: tensor.detach().to(self.device, self.dtype(name)).contiguous()
            for name, tensor in feeds.items()
        }
        num_rows = len(held["sample"])
        parts = []
        for start in range(0, num_rows, self._rows["max"]):
            rows = slice(start, start + self._rows["max"])
            parts.append(
                self._run_part(
                    {n: t[rows] if n in self._profile else t for n, t in held.items()}, shapes
                )
            )
        return {name: torch.cat([part[name] for part in parts]) for name in shapes}

    def _run_part(
        self, feeds: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """Rows that fit; where they are fewer than the plan takes, the last one is repeated."""
        num_rows = len(feeds["sample"])
        lacking = max(0, self._rows["min"] - num_rows)
        held = {
            name: torch.cat([t, *[t[-1:]] * lacking]) if name in self._profile else t
            for name, t in feeds.items()
        }
        for name, tensor in held.items():
            self._bind_input(name, tensor)
        results = {
            name: torch.empty(
                (num_rows + lacking, *shape[1:]), dtype=self.dtype(name), device=self.device
            )
            for name, shape in shapes.items()
        }
        for name, tensor in results.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream() if self.device.type == "cuda" else None
        if self._context.execute_async_v3(0 if stream is None else stream.cuda_stream) is not True:
            raise Inconclusive(f"{self.path}: the plan did not run", "use the ONNX engine")
        if stream is not None:
            stream.synchronize()
        return {name: tensor[:num_rows] for name, tensor in results.items()}

    def _bind_input(self, name: str, tensor: Tensor) -> None:
        shape = tuple(tensor.shape)
        if name in self._profile:
            low, _, high = self._profile[name]
            if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
                raise ValueError(f"{name} has shape {shape}, the plan takes {low} to {high}")
            if not self._context.set_input_shape(name, shape):
                raise Inconclusive(f"{self.path}: refuses {name} of shape {shape}", "build again")
        self._context.set_tensor_address(name, tensor.data_ptr())


def device() -> torch.device:
    """Where a plan's inputs and outputs lie."""
    return torch.device("cuda")


def _value(tensor: Mapping[str, Any]) -> SimpleNamespace:
    """As ONNX Runtime describes inputs: dynamic dimensions have names."""
    shape = [size if size >= 0 else f"dynamic_{axis}" for axis, size in enumerate(tensor["dims"])]
    return SimpleNamespace(name=tensor["name"], shape=shape)
