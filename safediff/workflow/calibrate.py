"""Makes the int8 engine of a verified model: calibrated, so that it stays close to it.

Calibration prompts are the policy's own: phrasings of what is erased, where a quantised model could
slip back to the base; texts that are kept; and the empty prompt, which half of every guided step
answers.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from safediff.errors import Inconclusive
from safediff.export.calibration import Reading, Ruler, collect, read_layers, settle
from safediff.export.exported_unet import ExportedUNet
from safediff.export.fake_int8 import linear_layers
from safediff.export.int8 import quantize_engine
from safediff.export.on_cpu import references
from safediff.export.parity import MAX_MARGIN_RATIO
from safediff.workflow.export_source import ExportSource

CALIBRATION = "calibration"
"""Where the record lies in an engine's metadata."""
MAX_ERROR = 0.01
"""Relative error of a prediction that int8 may cost, if nothing else is asked for."""
NUM_TEXTS = {"erased": 8, "kept": 4, "empty": 4}
GUIDANCE_SCALE, SEED = 5.0, 0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was calibrated on, what it cost, and what it gained."""

    texts: dict[str, list[str]]
    max_error: float
    num_layers: int
    kept: list[str]
    """Weights that stay fp32, most harmful first."""
    kept_share: float
    """Of all weights of linear layers."""
    before: Reading
    """With every linear layer in int8."""
    after: Reading
    layers: dict[str, Reading]
    """Every layer alone, simulated."""
    has_base: bool

    @property
    def line(self) -> str:
        """For the user."""
        parts = [
            f"calibrated: {len(self.kept)} of {self.num_layers} linear layers stay fp32 "
            f"({self.kept_share:.0%} of their weights), relative error "
            f"{self.before.largest:.2g} -> {self.after.largest:.2g}"
        ]
        return "; ".join([*parts, self.note] if self.note else parts)

    @property
    def note(self) -> str:
        """What was used in place of what is missing; empty where nothing is."""
        notes = []
        if not self.texts["erased"]:
            notes.append("no erased phrasings: calibrated on kept texts and the empty prompt")
        if not self.has_base:
            notes.append("no base: calibrated on the relative error alone")
        return "; ".join(notes)

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it; of the prompts their number and hash."""
        text = json.dumps(self.texts, sort_keys=True)
        return {
            "prompts": {group: len(texts) for group, texts in self.texts.items()},
            "prompts_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "guidance_scale": GUIDANCE_SCALE,
            "seed": SEED,
            "max_error": self.max_error,
            "max_margin_ratio": MAX_MARGIN_RATIO,
            "num_layers": self.num_layers,
            "kept_fp32": self.kept,
            "kept_share": round(self.kept_share, 4),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "layers": {name: reading.to_json() for name, reading in self.layers.items()},
            "line": self.line,
        }


def calibration_texts(source: ExportSource) -> dict[str, list[str]]:
    """Prompts of every group, spread over what the policy has."""
    kept = [text for text in source.kept_prompts if text]
    return {
        "erased": _spread(source.erased_prompts, NUM_TEXTS["erased"]),
        "kept": _spread(kept, NUM_TEXTS["kept"]),
        "empty": [""] * NUM_TEXTS["empty"],
    }


def _spread(texts: list[str], count: int) -> list[str]:
    """``count`` of them at even distances; all where there are fewer."""
    count = min(count, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]


def write_calibrated(
    source: ExportSource,
    fp32: Path,
    folder: Path,
    metadata: dict[str, str],
    max_error: float = MAX_ERROR,
) -> Calibration:
    """Write the int8 engine of an fp32 one; its record goes into the engine's metadata.

    Args:
        source: The verified model.
        fp32: Its engine folder.
        folder: The engine folder to write.
        metadata: Stored beside the record.
        max_error: Relative error of a prediction, any group of prompts at any timestep.

    Raises:
        Inconclusive: no layer can be quantised within the limits.
    """
    texts = calibration_texts(source)
    safe, *bases = references(*filter(None, (source.model, source.base)))
    base = bases[0] if bases else None
    ruler = Ruler(collect(safe, texts, GUIDANCE_SCALE, SEED), safe, base)
    layers = linear_layers(safe.denoiser)
    sizes = {name: prod(layer.weight.shape) for name, layer in layers.items()}
    with tempfile.TemporaryDirectory() as work:

        def measure(kept: list[str]) -> Reading:
            engine = Path(work) / f"without-{len(kept)}"
            quantize_engine(fp32, engine, {}, kept)
            unet = ExportedUNet(engine, num_threads=torch.get_num_threads())
            return ruler.read(safe.with_denoiser(unet).denoise)

        before = measure([])  # first: what can't be written fails before hours of reading layers
        readings = read_layers(ruler)
        kept, after = settle(readings, sizes, max_error, measure)
    if len(kept) == len(layers):
        raise Inconclusive(
            f"int8: no layer can be quantised with a relative error of at most {max_error:g}",
            "allow more with --max-error, or export in fp32",
        )
    found = Calibration(
        texts=texts,
        max_error=max_error,
        num_layers=len(layers),
        kept=kept,
        kept_share=sum(sizes[name] for name in kept) / sum(sizes.values()),
        before=before,
        after=after,
        layers=readings,
        has_base=source.base is not None,
    )
    quantize_engine(fp32, folder, metadata | {CALIBRATION: json.dumps(found.to_json())}, kept)
    return found
