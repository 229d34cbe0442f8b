"""Exports what stands around the UNet: text encoders and the decoder of the autoencoder.

Names of inputs and outputs are those that optimum's ONNX pipelines look for. Every parameter is an
initializer ``text_encoder.<state dict key>`` or ``vae.<state dict key>``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import CLIPTextModelWithProjection

from safediff.errors import Inconclusive, first_line
from safediff.export.engine_files import DATA_NAME, MODEL_NAME
from safediff.export.graph import MAX_TRACED_BATCH, require_names, trace
from safediff.export.on_cpu import on_cpu
from safediff.export.quiet import quiet

TEXT_PREFIX, VAE_PREFIX = "text_encoder.", "vae."
TEXT_FOLDER, DECODER_FOLDER = "text_encoder", "vae_decoder"
HIDDEN_STATES = "hidden_states."
"""Then the number of the layer; 0 stands before the first."""


class _Text(nn.Module):
    def __init__(self, text_encoder: nn.Module, outputs: list[str]) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.outputs = outputs

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """The outputs of ids (b, tokens): states (b, tokens, dim), pooled ones (b, dim)."""
        layers = any(name.startswith(HIDDEN_STATES) for name in self.outputs)
        out = self.text_encoder(input_ids, output_hidden_states=layers)
        return tuple(
            out.hidden_states[int(name.removeprefix(HIDDEN_STATES))]
            if name.startswith(HIDDEN_STATES)
            else out[name]
            for name in self.outputs
        )


class _Decoder(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        """Pictures in [-1, 1] (b, 3, H, W) of latents that the scaling factor was taken from."""
        out: Tensor = self.vae.decode(latent_sample, return_dict=False)[0]  # type: ignore[operator]
        return out


def export_text_encoder(
    text_encoder: nn.Module,
    folder: Path,
    num_tokens: int,
    dtype: torch.dtype,
    opset: int,
    *,
    hidden_states: bool = False,
) -> Path:
    """Write ``model.onnx``: ``input_ids`` (b, num_tokens), int64, to the states of the encoder.

    Outputs: ``last_hidden_state`` and ``pooler_output``, or ``text_embeds`` and
    ``last_hidden_state`` of an encoder with a projection; with ``hidden_states`` those before the
    first and after every layer, ``hidden_states.0`` and so on. The batch is dynamic.

    Raises:
        Inconclusive: the exporter failed.
    """
    encoder = on_cpu(text_encoder, dtype)
    inputs = {"input_ids": torch.ones(2, num_tokens, dtype=torch.long)}
    shapes = {"input_ids": {0: Dim("batch", min=1, max=MAX_TRACED_BATCH)}}
    outputs = _text_outputs(encoder, hidden_states)
    state = encoder.state_dict()
    text = _Text(encoder, outputs)
    model = _traced(text, inputs, shapes, outputs, opset, TEXT_PREFIX, state, folder)
    _name_dimension(model, ["batch"])
    return _save(model, folder)


def _text_outputs(encoder: Any, hidden_states: bool) -> list[str]:
    """Names in the order of transformers; the first is what its ``[0]`` gives."""
    projects = isinstance(encoder, CLIPTextModelWithProjection)
    pooled = ["text_embeds", "last_hidden_state"]
    outputs = pooled if projects else ["last_hidden_state", "pooler_output"]
    if hidden_states:
        outputs += [f"{HIDDEN_STATES}{i}" for i in range(encoder.config.num_hidden_layers + 1)]
    return outputs


def export_vae_decoder(vae: nn.Module, folder: Path, dtype: torch.dtype, opset: int) -> Path:
    """Write ``model.onnx``: ``latent_sample`` (b, c, h, w) to ``sample`` (b, 3, H, W).

    Batch, height and width are dynamic. Latents are divided by ``scaling_factor`` before.

    Raises:
        Inconclusive: the exporter failed.
    """
    module = on_cpu(vae, dtype)
    config: Any = module.config
    inputs = {"latent_sample": torch.randn(2, config.latent_channels, 8, 8, dtype=dtype)}
    batch = Dim("batch", min=1, max=MAX_TRACED_BATCH)
    dynamic = {0: batch, 2: Dim("rows", min=2), 3: Dim("columns", min=2)}
    state = decoder_state(module.state_dict())
    model = _traced(
        *(_Decoder(module), inputs, {"latent_sample": dynamic}, ["sample"], opset),
        *(VAE_PREFIX, state, folder),
    )
    _name_dimension(model, ["batch", None, "height", "width"])
    return _save(model, folder)


def decoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an autoencoder that decoding uses."""
    return {k: v for k, v in state.items() if k.startswith(("decoder.", "post_quant_conv."))}


def _traced(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    shapes: Mapping[str, Any],
    outputs: list[str],
    opset: int,
    prefix: str,
    state: Mapping[str, Tensor],
    folder: Path,
) -> ir.Model:
    try:
        with quiet():
            model = trace(module, inputs, shapes, outputs, opset, prefix)
        _keep_only(model, prefix, state)
        require_names(model, prefix, state)
    except Exception as error:
        raise Inconclusive(
            f"{folder}: could not be exported: {type(error).__name__}: {first_line(error)}",
            "run `safediff doctor` and compare the versions with the supported ones",
        ) from error
    return model


def _keep_only(model: ir.Model, prefix: str, state: Mapping[str, Tensor]) -> None:
    """Of that prefix only what is in ``state``: no unused parameters, no buffers of the tracer."""
    initializers = model.graph.initializers
    for name, value in list(initializers.items()):
        if not name.startswith(prefix) or name.removeprefix(prefix) in state:
            continue
        if value.uses():
            value.name = f"constant.{name}"
        else:
            del initializers[name]


def _name_dimension(model: ir.Model, names: list[str | None]) -> None:
    """Plain names for the dynamic dimensions instead of the tracer's expressions."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            rest = list(value.shape[len(names) :])
            fixed = [name or value.shape[i] for i, name in enumerate(names)]
            value.shape = ir.Shape([*fixed, *rest])


def _save(model: ir.Model, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ir.save(model, folder / MODEL_NAME, external_data=DATA_NAME)
    return folder / MODEL_NAME
