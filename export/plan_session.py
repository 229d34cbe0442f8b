"""Runs a plan on the GPU that it was built for; stands where ``session.Session`` would.

Rows of a call beyond what the plan takes at once are computed in parts. A static plan's call is
launched as a CUDA graph.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from safediff.errors import Inconclusive, UsageError, first_line
from safediff.export.open_plan import open_plan
from safediff.export.plan_call import FixedCall, on_own_stream, open_context, recorded

TYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}
SIZES = {"min": 0, "max": 2}
"""Places in a profile's triple."""


class PlanSession:
    """One opened plan."""

    def __init__(
        self, plan: Path, sha256: str | None = None, *, cuda_graph: bool | None = None
    ) -> None:
        """Open it; its hash is compared first.

        Args:
            plan: The plan.
            sha256: What it was found to be when it was checked; None: what its sidecar says.
            cuda_graph: Launch a call as one; None: where the plan is static and that can be done.

        Raises:
            UsageError: it is no plan that was built here, or needs another version of its module,
                or a CUDA graph was asked for and it is not static.
            Inconclusive: it can't be opened on this machine, or not with the CUDA graph.
        """
        self.path = plan
        self._trt, self._engine, self.sidecar = open_plan(plan, sha256)
        if cuda_graph and not self.sidecar["static"]:
            raise UsageError(
                f"{plan}: takes a range of sizes, and a CUDA graph is of one",
                "build it with --static, or leave --cuda-graph out",
            )
        self.device, self.provider = device(), "TensorRT"
        self.inputs = {t["name"]: _value(t) for t in self.sidecar["inputs"]}
        self.outputs = {t["name"]: _value(t) for t in self.sidecar["outputs"]}
        tensors = (*self.sidecar["inputs"], *self.sidecar["outputs"])
        self._dtypes = {t["name"]: TYPES[t["dtype"]] for t in tensors}
        self._profile: Mapping[str, list[list[int]]] = self.sidecar["profile"]
        sample = self._profile["sample"]
        self._rows = {name: sample[at][0] for name, at in SIZES.items()}
        self._context: Any = None
        self._call: FixedCall | None = None
        if cuda_graph or (cuda_graph is None and self._can_be_recorded):
            try:
                self._call = self._fixed_call(needed=bool(cuda_graph))
            except RuntimeError as error:  # PyTorch's, mostly of memory
                raise Inconclusive(
                    f"{plan}: its call can't be prepared on the GPU: {first_line(error)}",
                    "free some of its memory",
                ) from error
        if self._call is None:
            self._open_context(replayed=False)

    @property
    def _can_be_recorded(self) -> bool:
        return bool(self.sidecar["static"]) and self.device.type == "cuda"

    @property
    def cuda_graph(self) -> bool:
        """Whether calls are launched as a CUDA graph."""
        return self._call is not None

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
            self._check_shape(name, tuple(tensor.shape))
        if self._call is not None:
            results = self._call.run(held)
        else:
            rows = num_rows + lacking
            results = self._bound(held, {n: (rows, *shape[1:]) for n, shape in shapes.items()})
            self._run_bound()
        return {name: tensor[:num_rows] for name, tensor in results.items()}

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self._profile:
            return
        low, _, high = self._profile[name]
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            raise ValueError(f"{name} has shape {shape}, the plan takes {low} to {high}")

    def _bound(
        self, inputs: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """The outputs that a call writes to, after the context was told of all tensors."""
        for name, tensor in inputs.items():
            shape = tuple(tensor.shape)
            if name in self._profile and not self._context.set_input_shape(name, shape):
                raise Inconclusive(f"{self.path}: refuses {name} of shape {shape}", "build again")
        outputs = {
            name: torch.empty(tuple(shape), dtype=self.dtype(name), device=self.device)
            for name, shape in shapes.items()
        }
        for name, tensor in (*inputs.items(), *outputs.items()):
            self._context.set_tensor_address(name, tensor.data_ptr())
        return outputs

    def _run_bound(self) -> None:
        stream = torch.cuda.current_stream() if self.device.type == "cuda" else None
        if self._context.execute_async_v3(0 if stream is None else stream.cuda_stream) is not True:
            raise Inconclusive(f"{self.path}: the plan did not run", "use the ONNX engine")
        if stream is not None:
            stream.synchronize()

    def _open_context(self, *, replayed: bool) -> bool:
        """Whether it records and replays calls by itself."""
        self._context = None  # the memory of an earlier one
        self._context, replays = open_context(self._trt, self._engine, replayed=replayed)
        if self._context is None:
            raise Inconclusive(
                f"{self.path}: its buffers don't fit into the memory of the GPU", "free some of it"
            )
        return replays

    def _fixed_call(self, *, needed: bool) -> FixedCall | None:
        """The call of a static plan; None where it can't be recorded, and need not be."""
        replays = self._open_context(replayed=True)
        fixed = {t["name"]: t["dims"] for t in self.sidecar["inputs"]}
        fixed |= {name: shapes[0] for name, shapes in self._profile.items()}
        inputs = {
            name: torch.zeros(tuple(shape), dtype=self.dtype(name), device=self.device)
            for name, shape in fixed.items()
        }
        sizes = fixed["sample"]  # outputs are as large, but for their channels
        wanted = {
            t["name"]: [n if n >= 0 else sizes[axis] for axis, n in enumerate(t["dims"])]
            for t in self.sidecar["outputs"]
        }
        outputs = self._bound(inputs, wanted)
        execute = self._context.execute_async_v3
        try:
            launch = on_own_stream(execute) if replays else recorded(execute)
        except Inconclusive as error:
            if needed:
                raise Inconclusive(f"{self.path}: {error}", error.next_step) from error
            return None
        return FixedCall(inputs, outputs, launch)


def device() -> torch.device:
    """Where a plan's inputs and outputs lie."""
    return torch.device("cuda")


def _value(tensor: Mapping[str, Any]) -> SimpleNamespace:
    """As ONNX Runtime describes inputs: dynamic dimensions have names."""
    shape = [size if size >= 0 else f"dynamic_{axis}" for axis, size in enumerate(tensor["dims"])]
    return SimpleNamespace(name=tensor["name"], shape=shape)
