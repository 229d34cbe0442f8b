"""ONNX Runtime sessions: the provider that was asked for or none, and tensors bound in place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from torch import Tensor

from safediff.errors import Inconclusive, UsageError, first_line
from safediff.export.binding import Binding, Replayed
from safediff.export.openable import ONLY_FATAL, preload_cuda
from safediff.export.providers import GPU_PROVIDERS, Execution

TORCH_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int64)": torch.int64,
}
COMPUTE_ONCE = "session.disable_quant_qdq"
"""Weights that are stored as int8 are made float when the session is opened, not at every call."""
EXACT_PRODUCTS = "session.x64quantprecision"
"""Without it int8 products overflow on x86-64 without VNNI: other pictures, and nothing is said."""
SPINNING = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")
"""Whether threads wait busily, within an operator and between operators."""
GRAPH_ID = "gpu_graph_id"
"""Of a run: sizes have CUDA graphs of their own."""


class Session:
    """One model file on one provider."""

    def __init__(self, path: Path, execution: Execution) -> None:
        """Open it.

        Args:
            path: ``model.onnx`` with its data beside it.
            execution: How it is run.

        Raises:
            UsageError: the provider is not available here.
            Inconclusive: the file is missing or damaged.
        """
        self.ort, self.execution = _open(path, execution), execution
        self.device, self.provider = execution.device, execution.provider
        self._replayed: dict[tuple[tuple[str, tuple[int, ...]], ...], Replayed] = {}
        self.inputs = {value.name: value for value in self.ort.get_inputs()}
        self.outputs = {value.name: value for value in self.ort.get_outputs()}
        values = (self.inputs | self.outputs).items()
        self._dtypes = {n: TORCH_DTYPES[v.type] for n, v in values if v.type in TORCH_DTYPES}

    @property
    def cuda_graph(self) -> bool:
        """Whether calls are recorded once for each size and replayed."""
        return self.execution.cuda_graph

    def dtype(self, name: str) -> torch.dtype:
        """Type of an input or output."""
        return self._dtypes[name]

    def run(
        self, feeds: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """Compute with tensors where they lie: nothing is copied on the way in or out.

        Args:
            feeds: Every input by name.
            shapes: The wanted outputs and their shapes.
        """
        held = {
            name: tensor.detach().to(self.device, self._dtypes[name]).contiguous()
            for name, tensor in feeds.items()
        }
        if self.device.type == "cpu":
            arrays = self.ort.run(list(shapes), {name: t.numpy() for name, t in held.items()})
            return {name: torch.from_numpy(a) for name, a in zip(shapes, arrays, strict=True)}
        return self._run_bound(held, shapes)

    def _run_bound(
        self, held: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        if not self.execution.cuda_graph:
            results = self._empty(shapes)
            Binding(self.ort, held, results).run()
            return results
        sizes = tuple((name, tuple(tensor.shape)) for name, tensor in held.items())
        if sizes not in self._replayed:
            options = ort.RunOptions()
            options.add_run_config_entry(GRAPH_ID, str(1 + len(self._replayed)))
            outputs = self._empty(shapes)
            self._replayed[sizes] = Replayed(self.ort, held, outputs, options)
        return self._replayed[sizes].run(held)

    def _empty(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        return {
            name: torch.empty(tuple(shape), dtype=self.dtype(name), device=self.device)
            for name, shape in shapes.items()
        }


def _open(path: Path, execution: Execution) -> ort.InferenceSession:
    provider = execution.provider
    available = ort.get_available_providers()
    if provider not in available:
        raise UsageError(
            f"{provider} is not available here; ONNX Runtime offers {', '.join(available)}",
            "choose one of these, or install onnxruntime-gpu for CUDA",
        )
    if not path.is_file():
        raise Inconclusive(f"{path}: no such engine", "export it first")
    options = ort.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    for entry in (COMPUTE_ONCE, EXACT_PRODUCTS):
        options.add_session_config_entry(entry, "1")
    if execution.num_threads is not None:
        options.intra_op_num_threads = execution.num_threads
    if not execution.spin:
        for entry in SPINNING:
            options.add_session_config_entry(entry, "0")
    if provider in GPU_PROVIDERS:
        preload_cuda()
        torch.cuda.empty_cache()  # what PyTorch keeps without using it
    session = load_graph(path, options, [(provider, execution.options(path))])
    if session.get_providers()[0] != provider:  # it only warns, and takes the CPU
        raise Inconclusive(
            f"{path}: asked for {provider}, ONNX Runtime chose {session.get_providers()[0]}",
            "check that provider's installation with `safediff doctor`",
        )
    return session


def load_graph(path: Path, options: ort.SessionOptions, providers: Sequence[Any]) -> Any:
    """ONNX Runtime's session of a model file.

    Raises:
        Inconclusive: the file is missing or damaged.
    """
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise Inconclusive(
            f"{path}: the engine can't be loaded: {first_line(error)}", "export the engine again"
        ) from error
