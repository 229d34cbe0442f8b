"""Draws with an exported folder through optimum's ONNX pipeline and through diffusers; compares.

Runs in an environment of its own (scripts/check_optimum.sh makes it), not in safediff's.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from optimum.onnxruntime import ORTStableDiffusionPipeline

MAX_DIFFERENCE = 1e-3
"""Of a pixel in [0, 1], fp32."""
PROMPT, NUM_STEPS, GUIDANCE = "hammer, noto style", 4, 5.0


def main(folder: str) -> int:
    """Exit code 0 where the largest difference of a pixel is small enough, else 1."""
    config = json.loads((Path(folder) / "unet" / "config.json").read_text())
    size = config["sample_size"]
    shape = (1, config["in_channels"], size, size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    settings = {
        "num_inference_steps": NUM_STEPS,
        "guidance_scale": GUIDANCE,
        "latents": latents,
        "output_type": "np",
    }
    compiled = ORTStableDiffusionPipeline.from_pretrained(folder)(PROMPT, **settings).images
    reference = DiffusionPipeline.from_pretrained(folder)(PROMPT, **settings).images
    difference = float(np.abs(np.asarray(compiled) - np.asarray(reference)).max())
    print(f"largest difference of a pixel between optimum and diffusers: {difference:.1e}")
    return int(not difference <= MAX_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
