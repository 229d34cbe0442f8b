"""What an execution provider of ONNX Runtime is told, and where its tensors lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import onnx_ir as ir
import onnxruntime as ort
import torch

from safediff.errors import Inconclusive, UsageError
from safediff.export.openable import why_not
from safediff.export.plan_profile import Profile, Triple

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
GPU_PROVIDERS = (CUDA_PROVIDER, TENSORRT_PROVIDER)


class ExecutionOptions(TypedDict, total=False):
    """The fields of ``Execution``, as whatever opens an engine takes them by name."""

    provider: str
    num_threads: int | None
    profile: Profile | None
    cuda_graph: bool
    spin: bool


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a graph is run."""

    provider: str = CPU_PROVIDER
    """Another one is never used in its place."""
    num_threads: int | None = None
    """Of one operator; None leaves the choice to ONNX Runtime."""
    profile: Profile | None = None
    """Sizes that come; for TensorRT, which without it builds again at every new size."""
    cuda_graph: bool = False
    """Record the kernels once for each size and replay them, at the price of buffers of its own."""
    spin: bool = True
    """Threads that wait for work keep their cores busy: faster at small batches, and taken from
    whatever else runs on the machine."""

    @property
    def device(self) -> torch.device:
        """Where inputs and outputs lie."""
        if self.provider in GPU_PROVIDERS:
            return torch.device("cuda", _gpu())
        return torch.device("cpu")

    def options(self, path: Path) -> dict[str, str]:
        """Provider options for the graph in ``path``.

        Raises:
            UsageError: the provider has no CUDA graphs.
        """
        graph = "1" if self.cuda_graph else "0"
        if self.provider == CUDA_PROVIDER:
            return {
                "device_id": str(_gpu()),
                "enable_cuda_graph": graph,
                # by default its memory doubles whenever it is too small, beside PyTorch's
                "arena_extend_strategy": "kSameAsRequested",
            }
        if self.provider == TENSORRT_PROVIDER:
            shapes = {} if self.profile is None else self.profile.shapes(_inputs(path))
            return {
                "device_id": str(_gpu()),
                # what lies in a cache was built from who knows what: it would escape the gate
                "trt_engine_cache_enable": "0",
                "trt_cuda_graph_enable": graph,
                **_profile_options(shapes),
            }
        if self.cuda_graph:
            raise UsageError(f"{self.provider}: has no CUDA graphs", f"use {CUDA_PROVIDER}")
        return {}


def _gpu() -> int:
    """The GPU of this process: under torchrun each has its own."""
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def refusal(provider: str) -> str | None:
    """Why no session can be opened on a provider here, in a few words; None: it can."""
    return why_not(provider, _gpu() if provider in GPU_PROVIDERS else None)


def drawing_provider() -> str:
    """Who draws many pictures with an engine: CUDA where torch and ONNX Runtime both have it.

    Raises:
        Inconclusive: ONNX Runtime was built for CUDA and can't use it, which would be noticed by
            the days that it takes.
    """
    if not torch.cuda.is_available() or CUDA_PROVIDER not in ort.get_available_providers():
        return CPU_PROVIDER
    if reason := refusal(CUDA_PROVIDER):
        raise Inconclusive(
            f"{CUDA_PROVIDER}: ONNX Runtime lists it, but it can't be opened: {reason}",
            "install the onnxruntime-gpu of PyTorch's CUDA, or onnxruntime, to draw on the CPU",
        )
    return CUDA_PROVIDER


def _inputs(path: Path) -> list[ir.Value]:
    try:
        return list(ir.load(path).graph.inputs)
    except Exception as error:  # protobuf's own, mostly
        raise Inconclusive(
            f"{path}: not a readable ONNX file ({type(error).__name__})", "export it again"
        ) from error


def _profile_options(shapes: Mapping[str, Triple]) -> dict[str, str]:
    """``sample:2x4x64x64,encoder_hidden_states:2x77x768`` for the smallest, best and largest."""
    return {
        f"trt_profile_{name}_shapes": ",".join(
            f"{value}:{'x'.join(map(str, triple[i]))}" for value, triple in shapes.items()
        )
        for i, name in enumerate(("min", "opt", "max"))
        if shapes
    }
