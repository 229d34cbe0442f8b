"""A module that stands for ``tensorrt`` and ``tensorrt_rtx``, and records what it is asked."""

import ctypes
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from safediff.environment import environment

needs_rtx = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="builds a real engine; TensorRT-RTX is a development package on Linux x86-64 only",
)
without_driver = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="what the real module says without a driver is tested where there is none",
)
PLAN = b"the plan" * 200_000
REFITTED = b"refitted" * 200_000
INPUTS = {"sample": (-1, 4, -1, -1), "timestep": (), "encoder_hidden_states": (-1, 77, 16)}


def pretend_gpu(
    monkeypatch: pytest.MonkeyPatch,
    name: str = "NVIDIA H100",
    capability: tuple[int, int] = (9, 0),
) -> None:
    """What is kept of the real machine is found first: its name would be asked of the GPU."""
    environment()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


class FakeTrt:
    """Enough to build, open, refit and run a plan of the tiny UNet.

    ``fail`` names the call that goes wrong; ``dtypes`` are those that the module makes of tensors;
    where ``plan`` is None, the plan that is built holds the weights of the graph that was parsed.
    It computes what the graph in ``runs`` does, with host memory in the place of the GPU's.
    """

    __name__ = "tensorrt"
    __version__ = "10.16.1"

    def __init__(self, fail: str = "") -> None:
        self.fail, self.dtypes = fail, {}
        self.plan: bytes | None = PLAN
        self.added = b""
        """At the end of a plan that holds its weights: no build is like another."""
        self.parsed = self.runs = Path()
        self.read: dict[str, list[Any]] = {}
        """Inputs of the graph that was parsed."""
        self.ran: list[dict[str, tuple[int, ...]]] = []
        """Shapes of the inputs, run by run."""
        self.streams: list[int] = []
        """Those that runs were launched on."""
        self.recording: list[Any] | None = None
        """While it is a list, runs are recorded there instead, as CUDA does."""
        self.configured: list[Any] = []
        """What contexts were made with."""
        self.flags, self.shapes, self.target, self.typed = {"TF32"}, {}, None, 0
        self.inputs = INPUTS
        self.names: set[str] = set()
        """Weights of the opened plan."""
        self.given: dict[str, np.ndarray[Any, Any]] = {}
        self.saved_with: list[str] = []
        self.opened: list[bytes] = []
        self.Logger: Any = type("Logger", (), {"ERROR": 1, "__init__": lambda s, level: None})
        self.ILogger: Any = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0})
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
        names = {name: name for name in ("TF32", "REFIT", "STRIP_PLAN")}
        self.BuilderFlag = SimpleNamespace(**names)
        self.SerializationFlag = SimpleNamespace(INCLUDE_REFIT="INCLUDE_REFIT")
        self.ComputeCapability = SimpleNamespace(SM89="sm89", SM120="sm120", NONE="none")
        self.DataType = SimpleNamespace(FLOAT="FLOAT", HALF="HALF", BF16="BF16")
        self.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
        self.Weights: Any = lambda array: array

    def _tensors(self) -> tuple[list[Any], list[Any]]:
        def tensor(name: str, shape: tuple[int, ...]) -> Any:
            return SimpleNamespace(name=name, dtype=self.dtypes.get(name, "FLOAT"), shape=shape)

        inputs = [tensor(name, shape) for name, shape in self.inputs.items()]
        return inputs, [tensor("out_sample", self.inputs["sample"])]

    def Builder(self, log: Any) -> Any:
        def network(flags: int) -> Any:
            self.typed = flags
            inputs, outputs = self._tensors()
            return SimpleNamespace(
                num_inputs=len(inputs) - (self.fail == "inputs"),
                get_input=inputs.__getitem__,
                num_outputs=1,
                get_output=outputs.__getitem__,
            )

        def profile() -> Any:
            return SimpleNamespace(
                set_shape=lambda name, *triple: self.shapes.__setitem__(name, triple)
            )

        def config() -> Any:  # a timing cache is nothing that may be asked for
            made = SimpleNamespace(num_compute_capabilities=0)
            made.set_flag, made.clear_flag = self.flags.add, self.flags.discard
            made.set_compute_capability = lambda c, i: setattr(self, "target", c)
            made.add_optimization_profile = lambda p: -1 if self.fail == "profile" else 0
            return made

        return SimpleNamespace(
            create_network=network,
            create_builder_config=config,
            create_optimization_profile=profile,
            build_serialized_network=lambda n, c: None if self.fail == "build" else self._built(),
        )

    def _built(self) -> bytes:
        if self.plan is not None:
            return self.plan
        weights = ir.load(self.parsed).graph.initializers.values()
        tensors = [w.const_value.tobytes() for w in weights if w.const_value is not None]
        return b"the plan" + b"".join(t + b"\0" * (-len(t) % 8) for t in tensors) + self.added

    def OnnxParser(self, network: Any, log: Any) -> Any:
        def parse(path: str) -> bool:
            self.parsed = Path(path)
            if self.fail == "parse" or not self.parsed.is_file():
                return False
            self.read = {str(v.name): list(v.shape or ()) for v in ir.load(path).graph.inputs}
            return True

        return SimpleNamespace(
            parse_from_file=parse,
            num_errors=1,
            get_error=lambda i: "no such operator",
        )

    def Runtime(self, log: Any) -> Any:
        def deserialize(data: bytes) -> Any:
            self.opened.append(data)
            if self.fail == "open":
                log.log(1, "no driver\nat such a line")
                log.log(1, "what follows from it")
                return None
            return self._engine()

        if self.fail == "runtime":  # as pybind11 says it
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def _engine(self) -> Any:
        inputs, outputs = self._tensors()
        by_name = {t.name: t for t in (*inputs, *outputs)}
        return SimpleNamespace(
            num_io_tensors=len(by_name),
            get_tensor_name=list(by_name).__getitem__,
            get_tensor_dtype=lambda name: by_name[name].dtype,
            get_tensor_mode=lambda name: "in" if name in self.inputs else "out",
            get_tensor_profile_shape=lambda name, i: [tuple(s) for s in self.shapes[name]],
            create_runtime_config=SimpleNamespace,
            create_execution_context=self._context,
            create_serialization_config=lambda: SimpleNamespace(set_flag=self.saved_with.append),
            serialize_with_config=lambda config: None if self.fail == "save" else REFITTED,
        )

    def _context(self, config: Any = None) -> Any:
        self.configured.append(config)
        return None if self.fail == "memory" else Context(self)

    def Refitter(self, engine: Any, log: Any) -> Any:
        def give(name: str, array: Any) -> bool:
            self.given[name] = array
            return not (self.fail == "set" and name.endswith("conv_in.bias"))

        def missing() -> list[str]:
            found = self.names - self.given.keys()
            return sorted(found) + ["fused"] * (self.fail == "missing")

        return SimpleNamespace(
            get_all_weights=lambda: [*self.names, "an epsilon"],
            set_named_weights=give,
            get_missing_weights=missing,
            refit_cuda_engine=lambda: self.fail != "refit",
        )


class Context:
    """Runs ``FakeTrt.runs`` on the addresses that it was given."""

    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt
        self.shapes: dict[str, tuple[int, ...]] = {"timestep": ()}
        self.addresses: dict[str, int] = {}
        self.session = ort.InferenceSession(str(trt.runs)) if trt.runs.is_file() else None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self.trt.fail != "shape"

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.trt.streams.append(stream)
        if self.trt.recording is None:
            return self._compute()
        self.trt.recording.append(self._compute)
        return self.trt.fail != "run"

    def _compute(self) -> bool:
        self.trt.ran.append(dict(self.shapes))
        if self.trt.fail == "run" or self.session is None:
            return False
        feeds = {name: self._array(name, shape) for name, shape in self.shapes.items()}
        (found,) = self.session.run(None, feeds)
        self._array("out_sample", found.shape)[...] = found
        return True

    def _array(self, name: str, shape: tuple[int, ...]) -> Any:
        size = int(np.prod(shape, dtype=int))
        pointer = ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (size,)).reshape(shape)
