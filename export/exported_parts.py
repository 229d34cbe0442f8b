"""Compiled text encoders and decoder that stand where transformers' and diffusers' own would."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Unpack

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPTextModelOutput

from safediff.errors import Inconclusive
from safediff.export.engine_files import CONFIG_NAME, MODEL_NAME
from safediff.export.parts import HIDDEN_STATES
from safediff.export.providers import Execution, ExecutionOptions
from safediff.export.rows import decoder_values, rows_at_once, run_in_parts
from safediff.export.session import Session

TextStates = BaseModelOutputWithPooling | CLIPTextModelOutput
"""What a text encoder returns, without and with a projection."""


class ExportedTextEncoder:
    """``text_encoder/`` or ``text_encoder_2/`` of an exported folder."""

    def __init__(self, folder: Path, **options: Unpack[ExecutionOptions]) -> None:
        self._session = Session(folder / MODEL_NAME, Execution(**options))
        self.device = self._session.device
        self.dtype = self._session.dtype("last_hidden_state")
        self._inner = {n: v.shape[1:] for n, v in self._session.outputs.items()}
        """Shapes of the outputs without the batch."""

    @property
    def has_layers(self) -> bool:
        """Whether it gives the states of its layers, as SDXL's do."""
        return any(name.startswith(HIDDEN_STATES) for name in self._inner)

    def __call__(self, input_ids: Tensor, output_hidden_states: bool = False) -> TextStates:
        """States of ids (b, tokens), in fp32 whatever the engine's precision.

        The trajectory takes its type from them: only the networks compute in half precision.

        Raises:
            TypeError: the states of the layers are asked for, and the engine has none.
        """
        layers = [name for name in self._inner if name.startswith(HIDDEN_STATES)]
        if output_hidden_states and not layers:
            raise TypeError("the exported text encoder has no hidden states but the last")
        named = self._inner.keys() - set(layers)
        shapes = {
            name: (len(input_ids), *inner)
            for name, inner in self._inner.items()
            if output_hidden_states or name in named
        }
        found = self._session.run({"input_ids": input_ids}, shapes)
        states: dict[str, Any] = {name: state.float() for name, state in found.items()}
        if output_hidden_states:
            states["hidden_states"] = tuple(states.pop(name) for name in layers)
        kind = CLIPTextModelOutput if "text_embeds" in named else BaseModelOutputWithPooling
        return kind(**states)


class ExportedDecoder:
    """``vae_decoder/`` of an exported folder; it cannot encode."""

    def __init__(self, folder: Path, **options: Unpack[ExecutionOptions]) -> None:
        self.config = _read_config(folder / CONFIG_NAME)
        self._path = folder / MODEL_NAME
        self._session = Session(folder / MODEL_NAME, Execution(**options))
        self.device = self._session.device
        self.dtype = self._session.dtype("latent_sample")
        self._factor = 2 ** (len(self.config.block_out_channels) - 1)

    def to(self, dtype: torch.dtype) -> "ExportedDecoder":
        """Itself: an engine keeps the type that it was exported in.

        Raises:
            Inconclusive: that is another than ``dtype``.
        """
        if dtype != self.dtype:
            raise Inconclusive(
                f"{self._path}: computes in {self.dtype}, this autoencoder needs {dtype}",
                "export the folder again",
            )
        return self

    def decode(self, z: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Pictures in [-1, 1] of latents (b, c, h, w); of large ones a few at once."""
        if return_dict:
            raise TypeError("the exported decoder returns a tuple; pass return_dict=False")
        batch, _, height, width = z.shape
        shape = (batch, self.config.out_channels, height * self._factor, width * self._factor)
        values = decoder_values(self.config.block_out_channels, height, width)
        at_once = rows_at_once(self.dtype.itemsize * values, self._session.execution)
        pictures = run_in_parts(self._session, {"latent_sample": z}, {"sample": shape}, at_once)
        return (pictures["sample"],)


def _read_config(path: Path) -> SimpleNamespace:
    try:
        config = SimpleNamespace(**json.loads(path.read_text(encoding="utf-8")))
        _ = config.scaling_factor, config.block_out_channels, config.out_channels
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise Inconclusive(
            f"{path}: not the configuration of an exported decoder ({type(error).__name__})",
            "export the folder again",
        ) from error
    return config
