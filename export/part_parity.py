"""How far compiled text encoders and decoder are from PyTorch's, output by output."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safediff.export.engine_files import Precision
from safediff.export.exported_parts import ExportedDecoder, ExportedTextEncoder
from safediff.export.on_cpu import on_cpu
from safediff.export.parity import LIMITS, Difference, ParityLimits, difference, finite_or_none
from safediff.export.parts import HIDDEN_STATES

REFERENCE = "PyTorch, fp32"


@dataclass(frozen=True, kw_only=True)
class OutputParity(Difference):
    """The comparison of one output."""

    output: str


@dataclass(frozen=True, kw_only=True)
class PartParity:
    """All outputs of a part."""

    precision: Precision
    num_samples: int
    outputs: tuple[OutputParity, ...]

    @property
    def limits(self) -> ParityLimits:
        """Those of the UNet in this precision."""
        return LIMITS[self.precision]

    @property
    def passed(self) -> bool:
        """Whether every output keeps them."""
        return all(output.within(self.limits) for output in self.outputs)

    @property
    def worst(self) -> OutputParity:
        """The output that differs most."""
        return max(self.outputs, key=lambda output: output.max_abs)

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite become None."""
        return {
            "reference": REFERENCE,
            "precision": self.precision,
            "num_samples": self.num_samples,
            "outputs": [finite_or_none(asdict(output)) for output in self.outputs],
            "limits": asdict(self.limits),
            "passed": self.passed,
        }


@torch.no_grad()
def compare_text_encoder(
    folder: Path, encoder: Any, input_ids: Tensor, precision: Precision
) -> PartParity:
    """The states of ids (b, tokens): all outputs of the compiled encoder.

    Args:
        folder: ``text_encoder/`` or ``text_encoder_2/`` of an exported folder.
        encoder: PyTorch's, with the verified weights.
        input_ids: Real prompts.
        precision: Chooses the limits.
    """
    engine = ExportedTextEncoder(folder, num_threads=torch.get_num_threads())
    layers = engine.has_layers
    found = _named(engine(input_ids, output_hidden_states=layers))
    reference = on_cpu(encoder, torch.float32)
    expected = _named(reference(input_ids, output_hidden_states=layers))
    return _compare(found, {name: expected[name] for name in found}, precision)


@torch.no_grad()
def compare_decoder(folder: Path, vae: Any, latents: Tensor, precision: Precision) -> PartParity:
    """Pictures of latents (b, c, h, w), as the decoder is given them.

    Args:
        folder: ``vae_decoder/`` of an exported folder.
        vae: PyTorch's autoencoder, with the verified weights.
        latents: Divided by the scaling factor.
        precision: Chooses the limits.
    """
    engine = ExportedDecoder(folder, num_threads=torch.get_num_threads())
    (found,) = engine.decode(latents)
    expected = on_cpu(vae, torch.float32).decode(latents, return_dict=False)[0]
    return _compare({"sample": found}, {"sample": expected}, precision)


def _named(states: Any) -> dict[str, Tensor]:
    """Outputs of a text encoder by the names that a graph gives them."""
    found: dict[str, Tensor] = {}
    for name, value in states.items():
        if name == "hidden_states":
            found |= {f"{HIDDEN_STATES}{i}": layer for i, layer in enumerate(value)}
        else:
            found[name] = value
    return found


def _compare(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], precision: Precision
) -> PartParity:
    rows = tuple(
        OutputParity(output=name, **asdict(difference(value.double(), expected[name].double())))
        for name, value in found.items()
    )
    return PartParity(
        precision=precision, num_samples=len(next(iter(found.values()))), outputs=rows
    )
