"""ONNX Runtime sessions: the provider that was asked for or none, and tensors bound in place."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from safediff.errors import Inconclusive, UsageError

CPU_PROVIDER = "CPUExecutionProvider"
TORCH_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
}
_ELEMENTS = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}
ONLY_FATAL = 4
"""Log level of ONNX Runtime: its errors are raised as well."""


class Session:
    """One model file on one provider."""

    def __init__(self, path: Path, provider: str, num_threads: int | None) -> None:
        """Open it.

        Args:
            path: ``model.onnx`` with its data beside it.
            provider: Execution provider; another one is never used in its place.
            num_threads: Threads of one operator; None leaves the choice to ONNX Runtime.

        Raises:
            UsageError: the provider is not available here.
            Inconclusive: the file is missing or damaged.
        """
        self.ort = _open(path, provider, num_threads)
        self.device = torch.device("cuda" if provider.startswith("CUDA") else "cpu")
        self.inputs = {value.name: value for value in self.ort.get_inputs()}
        self.outputs = {value.name: value for value in self.ort.get_outputs()}
        values = (self.inputs | self.outputs).items()
        self._dtypes = {n: TORCH_DTYPES[v.type] for n, v in values if v.type in TORCH_DTYPES}

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
            name: tensor.detach().to(self.device, self.dtype(name)).contiguous()
            for name, tensor in feeds.items()
        }
        if self.device.type == "cpu":
            arrays = self.ort.run(list(shapes), {name: t.numpy() for name, t in held.items()})
            return {name: torch.from_numpy(a) for name, a in zip(shapes, arrays, strict=True)}
        return self._run_bound(held, shapes)

    def _run_bound(
        self, held: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """Tensors of another device are bound by their addresses, so ``held`` must live on."""
        binding = self.ort.io_binding()
        results = {
            name: torch.empty(tuple(shape), dtype=self.dtype(name), device=self.device)
            for name, shape in shapes.items()
        }
        kind, index = self.device.type, self.device.index or 0
        for bind, tensors in ((binding.bind_input, held), (binding.bind_output, results)):
            for name, tensor in tensors.items():
                element, size = _ELEMENTS[tensor.dtype], tuple(tensor.shape)
                bind(name, kind, index, element, size, tensor.data_ptr())
        binding.synchronize_inputs()
        self.ort.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return results


def _open(path: Path, provider: str, num_threads: int | None) -> ort.InferenceSession:
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
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    try:
        session = ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise Inconclusive(
            f"{path}: the engine can't be loaded: {first[:200]}", "export the engine again"
        ) from error
    if session.get_providers()[0] != provider:  # it only warns, and takes the CPU
        raise Inconclusive(
            f"{path}: asked for {provider}, ONNX Runtime chose {session.get_providers()[0]}",
            "check that provider's installation with `safediff doctor`",
        )
    return session
