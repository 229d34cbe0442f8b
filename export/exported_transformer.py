"""A compiled transformer that stands where diffusers' own would.

``pipe.transformer = ExportedTransformer(folder)``, in a pipeline of PixArt, SD3 or FLUX.1.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from diffusers.configuration_utils import FrozenDict
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from safediff.errors import Inconclusive, SafediffError
from safediff.export.engine_files import CONFIG_NAME, MODEL_NAME
from safediff.export.providers import Execution, ExecutionOptions
from safediff.export.rows import rows_at_once, run_in_parts, transformer_scores
from safediff.export.session import Session
from safediff.export.signature import BATCH, HEIGHT, WIDTH, signature_of

LATENTS, TIMESTEP = "hidden_states", "timestep"


class ExportedTransformer:
    """An engine folder as a transformer, run by ONNX Runtime.

    Rows whose attention scores don't fit into memory at once are computed in parts.
    """

    def __init__(self, folder: Path, **options: Unpack[ExecutionOptions]) -> None:
        """Open the engine.

        Args:
            folder: ``model.onnx`` with its data, and ``config.json``.
            options: See ``Execution``; without any, ONNX Runtime's CPU provider.

        Raises:
            UsageError: the provider is not available here.
            Inconclusive: files are missing or damaged.
        """
        self.folder = folder
        self.config = _read_config(folder / CONFIG_NAME)
        signature = signature_of(self.config["_class_name"])
        self._sides, self._output = signature.sides(self.config), signature.output
        self._session = Session(folder / MODEL_NAME, Execution(**options))
        self.dtype = self._session.dtype(LATENTS)
        """Type of latents, texts and output; times and scales are float32."""
        self.device, self.provider = self._session.device, self._session.provider
        self.cuda_graph = self._session.cuda_graph
        """Whether its calls are launched as a CUDA graph."""

    def __call__(
        self, hidden_states: Tensor, *, return_dict: bool = True, **given: Any
    ) -> tuple[Tensor] | Transformer2DModelOutput:
        """The network's answer, type and device of ``hidden_states``.

        Args:
            hidden_states: Latents (b, c, h, w); FLUX's are packed, (b, tokens, 4 c).
            return_dict: False gives a tuple.
            given: The other inputs by name, also within dictionaries. ``timestep`` is a number or a
                tensor () or (b,). Anything else that diffusers may pass must be None or empty,
                because an argument that is silently ignored would make other pictures than were
                asked for.

        Raises:
            TypeError: an argument would be ignored, or one is missing.
            ValueError: a shape that the engine can't take.
        """
        tensors = {LATENTS: hidden_states, **_flat(given)}
        self._require_inputs(tensors)
        timestep = tensors[TIMESTEP]
        if not isinstance(timestep, Tensor) or timestep.ndim == 0:
            tensors[TIMESTEP] = hidden_states.new_tensor(float(timestep)).expand(len(hidden_states))
        sizes = self._sizes(tensors)
        shape = [sizes.get(d, d) for d in self._session.outputs[self._output].shape]
        row_bytes = self.dtype.itemsize * transformer_scores(self.config, sizes)
        at_once = rows_at_once(row_bytes, self._session.execution)
        output = run_in_parts(self._session, tensors, {self._output: shape}, at_once)[self._output]
        answer = output.to(hidden_states.device, hidden_states.dtype)
        return Transformer2DModelOutput(sample=answer) if return_dict else (answer,)

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """Some of diffusers' pipelines name their branches to caches; here is none."""
        yield

    def _require_inputs(self, tensors: Mapping[str, Tensor]) -> None:
        wanted = self._session.inputs.keys()
        if unknown := sorted(tensors.keys() - wanted):
            raise TypeError(
                f"the exported transformer has no input {unknown[0]!r}; it would be ignored"
            )
        if missing := sorted(wanted - tensors.keys()):
            raise TypeError(f"the exported transformer needs {', '.join(missing)}")

    def _sizes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """What the named dimensions are; all inputs must agree."""
        sizes = {BATCH: len(tensors[LATENTS])}
        for name, value in self._session.inputs.items():
            found = tuple(tensors[name].shape)
            wanted = tuple(value.shape)
            if len(found) != len(wanted) or any(
                (sizes.setdefault(want, size) if isinstance(want, str) else want) != size
                for want, size in zip(wanted, found, strict=True)
            ):
                known = [sizes.get(size, size) for size in wanted]
                raise ValueError(
                    f"{name} has shape {found}, the exported transformer takes {known}"
                )
        self._require_sides(sizes)
        return sizes

    def _require_sides(self, sizes: Mapping[str, int]) -> None:
        if self._sides is None:
            return
        multiple, largest = self._sides.multiple, self._sides.largest
        height, width = sizes[HEIGHT], sizes[WIDTH]
        if height % multiple or width % multiple:
            raise ValueError(
                f"latents of {height} x {width}: height and width must be multiples of {multiple} "
                "for the exported transformer"
            )
        if largest is not None and max(height, width) > largest:
            raise ValueError(
                f"latents of {height} x {width}: the exported transformer takes up to {largest}"
            )


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given under one name each; None stands for not given."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        found |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return {name: value for name, value in found.items() if value is not None}


def _read_config(path: Path) -> Any:
    try:
        config = FrozenDict(json.loads(path.read_text(encoding="utf-8")))
        signature_of(config["_class_name"]).sides(config)
        return config
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafediffError) as error:
        raise Inconclusive(
            f"{path}: not the configuration of an exported transformer ({type(error).__name__})",
            "export the engine again",
        ) from error
