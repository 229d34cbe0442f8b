"""One call of a static plan as a CUDA graph: its kernels are launched as one.

A graph keeps the addresses that it was recorded with, so inputs are copied into buffers of its own,
and results out of them. TensorRT's calls are recorded here, by PyTorch; TensorRT-RTX records them
itself, where its runtime is told to.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from safediff.errors import Inconclusive, first_line

Execute = Callable[[int], bool]
"""Launches the kernels on a stream; whether that could be done."""
NEXT = "serve it with --no-cuda-graph"


class FixedCall:
    """A call whose tensors stay where they are."""

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        launch: Callable[[], None],
    ) -> None:
        """Take buffers by name, and what computes the outputs of what lies in the inputs."""
        self._inputs, self._outputs, self._launch = inputs, outputs, launch

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of inputs of the buffers' shapes; the next run does not change them."""
        for name, tensor in feeds.items():
            self._inputs[name].copy_(tensor)
        self._launch()
        return {name: tensor.clone() for name, tensor in self._outputs.items()}


def open_context(trt: Any, engine: Any, *, replayed: bool) -> tuple[Any, bool]:
    """An execution context, and whether it records and replays its calls by itself.

    Args:
        trt: The module.
        engine: Opened by it.
        replayed: Whether it should, where it can; only TensorRT-RTX's do.
    """
    if not replayed or not hasattr(trt, "CudaGraphStrategy"):
        return engine.create_execution_context(), False
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config), True


def recorded(execute: Execute) -> Callable[[], None]:
    """What replays a call. It is run once before: a plan sets up in its first call what it keeps.

    Raises:
        Inconclusive: it can't be run or recorded.
    """
    _require(execute(torch.cuda.current_stream().cuda_stream))
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            done = execute(torch.cuda.current_stream().cuda_stream)
    except RuntimeError as error:
        raise Inconclusive(
            f"its CUDA graph can't be recorded: {first_line(error)}", NEXT
        ) from error
    _require(done)
    replay: Callable[[], None] = graph.replay
    return replay


def on_own_stream(execute: Execute) -> Callable[[], None]:
    """What runs a call that its context records: CUDA can't record on the default stream."""
    stream = torch.cuda.Stream()

    def launch() -> None:
        here = torch.cuda.current_stream()
        stream.wait_stream(here)
        _require(execute(stream.cuda_stream))
        here.wait_stream(stream)

    launch()
    return launch


def _require(done: bool) -> None:
    if done is not True:
        raise Inconclusive("its call could not be run for a CUDA graph", NEXT)
