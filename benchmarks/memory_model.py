"""Is the memory that ``safediff plan`` expects the memory that training takes?

Checks: the trainer itself runs two steps on random UNets of several sizes, real tensors on the
CPU, and the bytes of all live tensors are counted operation by operation; beside it stands what the
model expects from the architecture alone. Estimates: what it expects at the sizes of Stable
Diffusion, where nothing was run.

    python benchmarks/memory_model.py --out benchmarks/memory_model.json
"""

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from random_model import CONCEPT, KEEP, random_backbone  # noqa: E402

from safediff.environment import environment  # noqa: E402
from safediff.erase.live_bytes import LiveBytes  # noqa: E402
from safediff.erase.memory import DRIVER, GIB, erasing_memory, sampling_memory  # noqa: E402
from safediff.erase.params import PRESETS, DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer  # noqa: E402
from safediff.models.architecture import SD1, SD2, SDXL, Architecture  # noqa: E402
from safediff.models.load import DTYPES  # noqa: E402

MODELS = {"SD 1.x, 512 px": SD1, "SD 2.x, 768 px": SD2, "SDXL, 1024 px": SDXL}
LEAN: dict[str, Any] = {"gradient_checkpointing": True, "micro_batch": 1}
FAST, SAFEDIFF, PAPER = (PRESETS["sdd"][name] for name in ("fast", "safediff", "paper"))
ROWS: dict[str, tuple[DistilParams, str]] = {
    "paper, float32": (PAPER, "float32"),
    "paper, bfloat16": (PAPER, "bfloat16"),
    "paper, lean, bfloat16": (replace(PAPER, **LEAN), "bfloat16"),
    "paper, lean, bfloat16, offload_average": (
        replace(PAPER, **LEAN, offload_average=True),
        "bfloat16",
    ),
    "safediff, float32": (SAFEDIFF, "float32"),
    "safediff, lean, bfloat16": (replace(SAFEDIFF, **LEAN), "bfloat16"),
    "safediff, lean, bfloat16, offload_average": (
        replace(SAFEDIFF, **LEAN, offload_average=True),
        "bfloat16",
    ),
    "fast, float32": (FAST, "float32"),
    "fast, bfloat16": (FAST, "bfloat16"),
    "fast, bfloat16, checkpointing": (replace(FAST, gradient_checkpointing=True), "bfloat16"),
    "fast, bfloat16, micro_batch 1": (replace(FAST, micro_batch=1), "bfloat16"),
    "fast, lean, float32": (replace(FAST, **LEAN), "float32"),
    "fast, lean, float16 model, bfloat16 trunk": (
        replace(FAST, **LEAN, trunk_dtype="bfloat16"),
        "float16",
    ),
    "fast, lean, bfloat16": (replace(FAST, **LEAN), "bfloat16"),
    "fast, lean, bfloat16, lora_rank 16": (replace(FAST, **LEAN, lora_rank=16), "bfloat16"),
}


def form(architecture: Architecture, **changes: Any) -> Architecture:
    """The same kind of UNet in another size."""
    return replace(architecture, unet={**architecture.unet, **changes})


SMALL = form(*(SD1,), sample_size=16, block_out_channels=(32, 64, 96, 96), cross_attention_dim=48)
MIDDLE = form(*(SD1,), sample_size=32, block_out_channels=(64, 128, 256, 256))
MIDDLE_XL = form(
    *(SDXL,),
    sample_size=32,
    block_out_channels=(64, 128, 256),
    attention_head_dim=(2, 4, 8),
    transformer_layers_per_block=(1, 1, 3),
    cross_attention_dim=256,
)
RUN = replace(
    FAST,
    num_steps=2,
    reuse=2,
    num_inference_steps=4,
    batch_size=4,
    warm_start=0.0,  # over before training, and larger than it in nets as small as these only
    keep_sampling="uniform",
    log_every=100,
)
CHECKS: dict[str, tuple[Architecture, DistilParams, str]] = {
    "small": (SMALL, RUN, "float32"),
    "small, checkpointing": (SMALL, replace(RUN, gradient_checkpointing=True), "float32"),
    "small, micro_batch 1": (SMALL, replace(RUN, micro_batch=1), "float32"),
    "small, bfloat16": (SMALL, RUN, "bfloat16"),
    "small, no moving average": (SMALL, replace(RUN, ema_decay=0.0), "float32"),
    "small, lora": (SMALL, replace(RUN, lora_rank=4), "float32"),
    "small, whole cross-attention": (
        SMALL,
        replace(RUN, trainable="xattn", null_space=0.0),
        "float32",
    ),
    "middle": (MIDDLE, RUN, "float32"),
    "middle, lean": (MIDDLE, replace(RUN, **LEAN), "bfloat16"),
    "middle, SDXL form": (MIDDLE_XL, RUN, "bfloat16"),
    "middle, SDXL form, lean": (MIDDLE_XL, replace(RUN, **LEAN), "bfloat16"),
}


def main() -> None:
    """Run the checks, compute the estimates, write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    checks = {name: check(*row) for name, row in CHECKS.items()}
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "unit": "GiB; mebibytes in checks",
        "checks": checks,
        "estimates_without_the_drivers": {name: estimates(a) for name, a in MODELS.items()},
        "allowance_for_the_driver": round(DRIVER / GIB, 2),
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def check(architecture: Architecture, params: DistilParams, dtype: str) -> dict[str, float]:
    """Expected and counted peak, in mebibytes."""
    expected = erasing_memory(architecture, params, dtype).training
    counted = counted_peak(architecture, params, dtype)
    row = {
        "expected": round(expected / 2**20, 2),
        "counted": round(counted / 2**20, 2),
        "ratio": round(expected / counted, 3),
    }
    print(row, flush=True)
    return row


def counted_peak(architecture: Architecture, params: DistilParams, dtype: str) -> int:
    """Bytes of all live tensors at the peak of a real run."""
    backbone = random_backbone(architecture, DTYPES[dtype])
    with LiveBytes(backbone.denoiser.parameters()) as live:
        trainer = DistilTrainer(backbone, (CONCEPT,), KEEP, params, seed=0)
        live.reset_peak()
        trainer.run(lambda info: None)
    return int(live.peak)


def estimates(architecture: Architecture) -> dict[str, dict[str, float]]:
    """What training takes under every row of knobs, and what drawing takes."""
    rows: dict[str, dict[str, float]] = {}
    for name, (params, dtype) in ROWS.items():
        memory = erasing_memory(architecture, params, dtype)
        rows[f"erase: {name}"] = {
            key: round(value / GIB, 2)
            for key, value in {**vars(memory), "total": memory.total}.items()
        }
        print(name, rows[f"erase: {name}"], flush=True)
    for batch in (1, 4, 16):
        drawing = sampling_memory(architecture, batch, "bfloat16")
        rows[f"draw {batch} at a time, bfloat16"] = {
            "models": round(drawing.models / GIB, 2),
            "drawing": round(drawing.drawing / GIB, 2),
            "total": round(drawing.total / GIB, 2),
        }
    return rows


if __name__ == "__main__":
    main()
