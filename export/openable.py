"""Whether ONNX Runtime can open a session on an execution provider of this machine.

It lists the providers that it was compiled with. Where a library that one needs is missing, or is
of another version, it takes the CPU in its place and only logs why.
"""

from functools import cache

import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from safediff.errors import first_line
from safediff.export.quiet import quiet

ONLY_FATAL = 4
"""Log level of ONNX Runtime: its errors are raised as well."""
IR_VERSION, OPSET = 8, 18


def why_not(provider: str, device_id: int | None = None) -> str | None:
    """Why a session can't be opened on it, in a few words; None: it can.

    Args:
        provider: Its name.
        device_id: Of the GPU, where it has one.
    """
    if provider not in ort.get_available_providers():
        return "this build of ONNX Runtime does not have it"
    return _why_not(provider, device_id)


@cache
def _why_not(provider: str, device_id: int | None) -> str | None:
    """The same of one that is listed; it is tried once."""
    preload_cuda()
    options = ort.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    told = {} if device_id is None else {"device_id": str(device_id)}
    try:
        with quiet():
            session = ort.InferenceSession(
                _identity(), options, providers=[(provider, told)], enable_fallback=0
            )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        return first_line(error)
    if session.get_providers()[0] == provider:
        return None
    built = getattr(ort, "cuda_version", "") or "none"
    return (
        "a library that it needs can't be loaded; PyTorch was built with CUDA "
        f"{torch.version.cuda or 'none'}, ONNX Runtime with {built}"
    )


@cache
def preload_cuda() -> None:
    """CUDA's libraries that pip installed, which ONNX Runtime does not look for by itself."""
    if torch.cuda.is_available() and hasattr(ort, "preload_dlls"):
        with quiet():
            ort.preload_dlls()


def _identity() -> bytes:
    """A model that returns its input."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)
    return bytes(model.SerializeToString())
