"""Compiled text encoder and decoder that stand where transformers' and diffusers' own would."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from torch import Tensor

from safediff.errors import Inconclusive
from safediff.export.session import CPU_PROVIDER, Session
from safediff.export.to_onnx import CONFIG_NAME, MODEL_NAME


class TextStates(NamedTuple):
    """What a text encoder returns."""

    last_hidden_state: Tensor
    pooler_output: Tensor


class ExportedTextEncoder:
    """``text_encoder/`` of an exported folder."""

    def __init__(
        self, folder: Path, *, provider: str = CPU_PROVIDER, num_threads: int | None = None
    ) -> None:
        self._session = Session(folder / MODEL_NAME, provider, num_threads)
        self.device = self._session.device
        self.dtype = self._session.dtype("last_hidden_state")
        self._width = int(self._session.outputs["last_hidden_state"].shape[-1])

    def __call__(self, input_ids: Tensor) -> TextStates:
        """States of ids (b, tokens), in fp32 whatever the engine's precision.

        The trajectory takes its type from them: only the networks compute in half precision.
        """
        batch, tokens = input_ids.shape
        shapes = {
            "last_hidden_state": (batch, tokens, self._width),
            "pooler_output": (batch, self._width),
        }
        states = self._session.run({"input_ids": input_ids}, shapes)
        return TextStates(**{name: state.float() for name, state in states.items()})


class ExportedDecoder:
    """``vae_decoder/`` of an exported folder; it cannot encode."""

    def __init__(
        self, folder: Path, *, provider: str = CPU_PROVIDER, num_threads: int | None = None
    ) -> None:
        self.config = _read_config(folder / CONFIG_NAME)
        self._session = Session(folder / MODEL_NAME, provider, num_threads)
        self.device = self._session.device
        self.dtype = self._session.dtype("latent_sample")
        self._factor = 2 ** (len(self.config.block_out_channels) - 1)

    def decode(self, z: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Pictures in [-1, 1] of latents (b, c, h, w)."""
        if return_dict:
            raise TypeError("the exported decoder returns a tuple; pass return_dict=False")
        batch, _, height, width = z.shape
        shape = (batch, self.config.out_channels, height * self._factor, width * self._factor)
        return (self._session.run({"latent_sample": z}, {"sample": shape})["sample"],)


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
