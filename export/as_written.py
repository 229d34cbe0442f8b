"""A graph as it was written, on the CPU: opened at once, for a few calls.

ONNX Runtime rewrites a graph and rearranges its weights when a session is opened. That pays for
many calls; of a large engine it takes longer than a few, and as much memory again as the weights.
Here neither is done, and the weights are mapped from the file. What is computed is the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort
import torch
from torch import Tensor

from safediff.export.openable import ONLY_FATAL
from safediff.export.providers import CPU_PROVIDER
from safediff.export.session import TORCH_DTYPES, load_graph

KEEP_WEIGHTS = "session.disable_prepacking"


class AsWritten:
    """One model file; stands where ``session.Session`` would."""

    device, provider, cuda_graph = torch.device("cpu"), CPU_PROVIDER, False

    def __init__(self, path: Path, num_threads: int) -> None:
        """Open ``model.onnx`` with its data beside it; ``num_threads`` compute an operator.

        Raises:
            Inconclusive: the file is missing or damaged.
        """
        options = ort.SessionOptions()
        options.log_severity_level = ONLY_FATAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(KEEP_WEIGHTS, "1")
        options.intra_op_num_threads = num_threads
        self._ort = load_graph(path, options, [CPU_PROVIDER])
        self.inputs = {value.name: value for value in self._ort.get_inputs()}
        self.outputs = {value.name: value for value in self._ort.get_outputs()}

    def dtype(self, name: str) -> torch.dtype:
        """Type of an input or output."""
        return TORCH_DTYPES[(self.inputs | self.outputs)[name].type]

    def run(
        self, feeds: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """Compute the outputs that ``shapes`` names of every input by name."""
        arrays = {
            name: tensor.detach().to("cpu", self.dtype(name)).contiguous().numpy()
            for name, tensor in feeds.items()
        }
        found = self._ort.run(list(shapes), arrays)
        return {name: torch.from_numpy(a) for name, a in zip(shapes, found, strict=True)}
