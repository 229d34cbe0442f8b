"""Tensors of a GPU bound to a session by their addresses: nothing is copied through the host."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

BFLOAT16 = 16
"""Of ``onnx.TensorProto``, which a session takes where numpy has no such type."""
_ELEMENTS: Mapping[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: BFLOAT16,
    torch.int64: np.int64,
}


class Binding:
    """Inputs and outputs of a session. It holds them, because their addresses must live on."""

    def __init__(
        self, session: Any, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> None:
        self.session, self.inputs, self.outputs = session, inputs, outputs
        self._binding = session.io_binding()
        for bind, tensors in (
            (self._binding.bind_input, inputs),
            (self._binding.bind_output, outputs),
        ):
            for name, tensor in tensors.items():
                device, element = tensor.device, _ELEMENTS[tensor.dtype]
                place = (device.type, device.index or 0, element)
                bind(name, *place, tuple(tensor.shape), tensor.data_ptr())

    def run(self, options: Any = None) -> None:
        """Compute; what PyTorch has still to write is waited for, and so are the outputs."""
        self._binding.synchronize_inputs()
        self.session.run_with_iobinding(self._binding, options)
        self._binding.synchronize_outputs()


class Replayed:
    """A binding whose addresses stay, for a recorded CUDA graph: inputs are copied into them."""

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        options: Any,
    ) -> None:
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        self._binding, self._options = Binding(session, own, outputs), options

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs, which the next run does not change."""
        for name, tensor in inputs.items():
            self._binding.inputs[name].copy_(tensor)
        self._binding.run(self._options)
        return {name: tensor.clone() for name, tensor in self._binding.outputs.items()}
