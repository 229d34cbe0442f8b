"""A compiled UNet that stands where diffusers' own would: ``pipe.unet = ExportedUNet(folder)``."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.export.graph import OUTPUT_NAME, size_multiple
from safediff.export.to_onnx import CONFIG_NAME, MODEL_NAME

CPU_PROVIDER = "CPUExecutionProvider"
TORCH_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
ADDED_INPUTS = ("text_embeds", "time_ids")
ONLY_FATAL = 4
"""Log level of ONNX Runtime: its errors are raised as well."""


class ExportedUNet:
    """An engine folder as a UNet, run by ONNX Runtime."""

    def __init__(
        self, folder: Path, *, provider: str = CPU_PROVIDER, num_threads: int | None = None
    ) -> None:
        """Open the engine.

        Args:
            folder: ``model.onnx`` with its data, and ``config.json``.
            provider: Execution provider; another one is never used in its place.
            num_threads: Threads of one operator; None leaves the choice to ONNX Runtime.

        Raises:
            UsageError: the provider is not available here.
            Inconclusive: files are missing or damaged.
        """
        self.folder = folder
        self.config = _read_config(folder / CONFIG_NAME)
        self._session = _open_session(folder / MODEL_NAME, provider, num_threads)
        inputs = {value.name: value for value in self._session.get_inputs()}
        self.dtype: torch.dtype = TORCH_DTYPES[inputs["sample"].type]
        """Type of every input but ``timestep``, and of the output before it is returned."""
        self.device = torch.device("cuda" if provider.startswith("CUDA") else "cpu")
        self.size_multiple = size_multiple(self.config)
        """Latent height and width must be multiples of this."""
        self._shapes = {name: value.shape for name, value in inputs.items()}
        if "text_embeds" in inputs:  # SDXL's pipeline asks the UNet how wide this layer is
            width = self.config.projection_class_embeddings_input_dim
            self.add_embedding = SimpleNamespace(linear_1=SimpleNamespace(in_features=width))

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = True,
        **unsupported: Any,
    ) -> tuple[Tensor] | UNet2DConditionOutput:
        """Noise prediction, shape, type and device of ``sample`` (b, c, h, w).

        Args:
            sample: Latents (b, c, h, w).
            timestep: One for the whole batch: a number, or a tensor () or (b,) of equal values.
            encoder_hidden_states: Text states (b, tokens, dim).
            added_cond_kwargs: SDXL: ``text_embeds`` (b, dim) and ``time_ids`` (b, 6).
            return_dict: False gives a tuple.
            unsupported: Anything else that diffusers may pass; must be None or empty, because an
                argument that is silently ignored would make other pictures than were asked for.

        Raises:
            TypeError: an argument would be ignored, or one is missing.
            ValueError: a shape that the engine can't take, or timesteps that differ.
        """
        for name, value in unsupported.items():
            if value is not None and value != {}:
                raise TypeError(f"the exported UNet has no input {name!r}; it would be ignored")
        tensors = {"sample": sample, "encoder_hidden_states": encoder_hidden_states}
        tensors |= self._added(added_cond_kwargs or {})
        self._check_shapes(tensors)
        feeds = {name: _to_numpy(tensor, self.dtype) for name, tensor in tensors.items()}
        feeds["timestep"] = np.asarray(_single_timestep(timestep), dtype=np.float32)
        output = self._session.run([OUTPUT_NAME], feeds)[0]
        eps = torch.from_numpy(output).to(sample.device, sample.dtype)
        return UNet2DConditionOutput(sample=eps) if return_dict else (eps,)

    def _added(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        expected = {name for name in ADDED_INPUTS if name in self._shapes}
        if given.keys() != expected:
            raise TypeError(
                f"added_cond_kwargs has {sorted(given)}, the exported UNet takes {sorted(expected)}"
            )
        return given

    def _check_shapes(self, tensors: dict[str, Tensor]) -> None:
        batch = len(tensors["sample"])
        for name, tensor in tensors.items():
            shape, wanted = tuple(tensor.shape), [batch, *self._shapes[name][1:]]
            if len(shape) != len(wanted) or any(
                isinstance(want, int) and want != size
                for want, size in zip(wanted, shape, strict=True)
            ):
                raise ValueError(f"{name} has shape {shape}, the exported UNet takes {wanted}")
        height, width = tensors["sample"].shape[2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"latents of {height} x {width}: height and width must be multiples of "
                f"{self.size_multiple} for the exported UNet"
            )


def _single_timestep(timestep: Tensor | float) -> float:
    values = torch.as_tensor(timestep).reshape(-1)
    if values.numel() == 0 or bool((values != values[0]).any()):
        raise ValueError(
            "the exported UNet takes one timestep for the whole batch, got "
            f"{[round(float(value), 2) for value in values[:4]]}"
        )
    return float(values[0])


def _to_numpy(tensor: Tensor, dtype: torch.dtype) -> Any:
    return tensor.detach().to("cpu", dtype).contiguous().numpy()


def _read_config(path: Path) -> Any:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config["block_out_channels"]
        return FrozenDict(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Inconclusive(
            f"{path}: not the configuration of an exported UNet ({type(error).__name__})",
            "export the engine again",
        ) from error


def _open_session(path: Path, provider: str, num_threads: int | None) -> ort.InferenceSession:
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
