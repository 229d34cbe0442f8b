"""A compiled UNet that stands where diffusers' own would: ``pipe.unet = ExportedUNet(folder)``."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Unpack

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.export.as_written import AsWritten
from safediff.export.engine_files import CONFIG_NAME, MODEL_NAME
from safediff.export.plan_session import PlanSession
from safediff.export.providers import Execution, ExecutionOptions
from safediff.export.rows import rows_at_once, run_in_parts, unet_scores
from safediff.export.session import Session
from safediff.export.signature import SIGNATURES, widens_scores

UNET = SIGNATURES["UNet2DConditionModel"]
ADDED_INPUTS = ("text_embeds", "time_ids")


class ExportedUNet:
    """An engine folder as a UNet, run by ONNX Runtime.

    Rows whose attention scores don't fit into memory at once are computed in parts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        session: Session | PlanSession | AsWritten | None = None,
        **options: Unpack[ExecutionOptions],
    ) -> None:
        """Open the engine.

        Args:
            folder: ``model.onnx`` with its data, and ``config.json``.
            session: What runs it, such as an opened plan, which divides rows by itself; ``folder``
                gives ``config.json`` alone.
            options: See ``Execution``; without any, ONNX Runtime's CPU provider.

        Raises:
            UsageError: the provider is not available here.
            Inconclusive: files are missing or damaged.
        """
        self.folder = folder
        self.config = _read_config(folder / CONFIG_NAME)
        execution = Execution(**options)
        self._session = session or Session(folder / MODEL_NAME, execution)
        self._execution = execution if session is None else None
        inputs = self._session.inputs
        self.dtype = self._session.dtype("sample")
        """Type of every input but ``timestep``, and of the output before it is returned."""
        self.device = self._session.device
        self.provider = self._session.provider
        """What runs it."""
        self.cuda_graph = self._session.cuda_graph
        """Whether its calls are launched as a CUDA graph."""
        sides = UNET.sides(self.config)
        assert sides is not None
        self.size_multiple = sides.multiple
        """Latent height and width must be multiples of this."""
        self._shapes = {name: value.shape for name, value in inputs.items()}
        self._fitting: tuple[tuple[str, torch.Size], ...] = ()
        self._at_once = 0
        """Rows of a call of the size that was seen last."""
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
        tensors["timestep"] = _single_timestep(timestep)
        wanted = {UNET.output: sample.shape}
        output = run_in_parts(self._session, tensors, wanted, self._at_once)[UNET.output]
        eps = output.to(sample.device, sample.dtype)
        return UNet2DConditionOutput(sample=eps) if return_dict else (eps,)

    def _added(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        expected = {name for name in ADDED_INPUTS if name in self._shapes}
        if given.keys() != expected:
            raise TypeError(
                f"added_cond_kwargs has {sorted(given)}, the exported UNet takes {sorted(expected)}"
            )
        return given

    def _check_shapes(self, tensors: dict[str, Tensor]) -> None:
        shapes = tuple((name, tensor.shape) for name, tensor in tensors.items())
        if shapes == self._fitting:  # as in the last call
            return
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
        self._fitting, self._at_once = shapes, self._rows_at_once(batch, height, width)

    def _rows_at_once(self, batch: int, height: int, width: int) -> int:
        if self._execution is None:
            return batch
        dtype = torch.float32 if widens_scores(self.config, self.dtype) else self.dtype
        row_bytes = dtype.itemsize * unet_scores(self.config, height, width)
        return rows_at_once(row_bytes, self._execution)


def _single_timestep(timestep: Tensor | float) -> Tensor:
    """As a tensor (), which stays where it lies: reading it would wait for a GPU."""
    if not isinstance(timestep, Tensor):
        return torch.tensor(float(timestep))
    if timestep.ndim == 0:
        return timestep
    values = timestep.reshape(-1)
    if values.numel() == 0 or bool((values != values[0]).any()):
        raise ValueError(
            "the exported UNet takes one timestep for the whole batch, got "
            f"{[round(float(value), 2) for value in values[:4]]}"
        )
    return values[0]


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
