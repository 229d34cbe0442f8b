"""Draws with exported folders through optimum's ONNX pipeline and through diffusers; compares.

Runs in an environment of its own (scripts/check_optimum.sh makes it), not in safediff's.

    scripts/check_optimum.sh FOLDER... --out benchmarks/optimum.json
"""

import argparse
import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from optimum.onnxruntime import ORTStableDiffusionPipeline, ORTStableDiffusionXLPipeline

MAX_DIFFERENCE = {"fp32": 1e-3, "fp16": 2e-2}
"""Of a pixel in [0, 1], by the precision of the UNet's engine."""
PROMPT, NUM_STEPS, GUIDANCE = "hammer, noto style", 4, 5.0
PIPELINES = {
    "StableDiffusionPipeline": ORTStableDiffusionPipeline,
    "StableDiffusionXLPipeline": ORTStableDiffusionXLPipeline,
}
PACKAGES = ("optimum", "optimum-onnx", "transformers", "diffusers", "torch", "onnxruntime")


def main() -> int:
    """Exit code 0 where every difference is small enough, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="JSON file with what was found")
    args = parser.parse_args()
    rows = [compare(folder) for folder in args.folders]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {"prompt": PROMPT, "num_steps": NUM_STEPS, "guidance_scale": GUIDANCE},
        "folders": rows,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(not all(row["passed"] for row in rows))


def compare(folder: Path) -> dict[str, Any]:
    """One picture by both, from the same latents."""
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    config = json.loads((folder / "unet" / "config.json").read_text())
    engine = json.loads((folder / "safediff-export.json").read_text())["engines"][0]
    size, channels = config["sample_size"], config["in_channels"]
    latents = torch.randn((1, channels, size, size), generator=torch.Generator().manual_seed(0))
    settings = {
        "num_inference_steps": NUM_STEPS,
        "guidance_scale": GUIDANCE,
        "output_type": "np",
    }
    compiled = PIPELINES[kind].from_pretrained(folder)(PROMPT, latents=latents.clone(), **settings)
    plain = DiffusionPipeline.from_pretrained(folder)(PROMPT, latents=latents.clone(), **settings)
    found, expected = np.asarray(compiled.images), np.asarray(plain.images)
    difference = float(np.abs(found - expected).max())
    limit = MAX_DIFFERENCE[engine["precision"]]
    print(f"{folder}: {kind}, largest difference of a pixel from diffusers: {difference:.1e}")
    return {
        "pipeline": kind,
        "precision": engine["precision"],
        "unet_sha256": engine["sha256"],
        "picture": list(found.shape),
        "max_abs_difference": difference,
        "standard_deviation": float(expected.std()),
        "limit": limit,
        "passed": bool(np.isfinite(found).all() and difference <= limit),
    }


if __name__ == "__main__":
    sys.exit(main())
