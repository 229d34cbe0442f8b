"""Which settings ``gpu_erase.py`` measures, at the sizes of Stable Diffusion or on tiny ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpu_measure import drawing_speed, engine, reference_speed, trainer_speed

from safediff.erase.params import PRESETS, DistilParams
from safediff.models.architecture import SD1, SDXL, Architecture

Stage = Callable[[], dict[str, Any]]
SMALL_SIZES: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
}
TINY = {
    "sd1": replace(
        SD1,
        unet={
            **SD1.unet,
            **SMALL_SIZES,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32,
        },
        vae={**SD1.vae, "block_out_channels": (32, 32, 32, 32)},
        text_encoders=(),
    ),
    "sdxl": replace(
        SDXL,
        unet={
            **SDXL.unet,
            **SMALL_SIZES,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "attention_head_dim": (2, 4),
            "cross_attention_dim": 32,
        },
        vae={**SDXL.vae, "block_out_channels": (32, 32, 32, 32)},
        text_encoders=(),
    ),
}
REAL = {"sd1": SD1, "sdxl": SDXL}
TINY_BATCH, TINY_REUSE, TINY_INFERENCE_STEPS = 4, 2, 6
"""At most; tiny runs check that the script works, not how fast anything is."""
LEAN: dict[str, Any] = {"gradient_checkpointing": True, "micro_batch": 1}


def stages(tiny: bool, seconds: float, ceiling: Callable[[], float | None]) -> dict[str, Stage]:
    """All measurements by name, the ones that matter most first.

    ``seconds``: of each. ``ceiling``: asked when a stage begins.
    """
    models: dict[str, Architecture] = TINY if tiny else REAL
    presets = {n: _tiny(p) if tiny else p for n, p in PRESETS["sdd"].items()}
    safediff, fast, paper, repo = (presets[n] for n in ("safediff", "fast", "paper", "repo"))

    def train(family: str, params: DistilParams, dtype: str = "bfloat16", **changes: Any) -> Stage:
        changed = replace(params, **changes)
        return lambda: trainer_speed(models[family], changed, dtype, seconds, ceiling())

    def reference(family: str, half: bool) -> Stage:
        return lambda: reference_speed(models[family], repo, half, seconds, ceiling())

    def draw(family: str, batch_size: int) -> Stage:
        count = min(batch_size, TINY_BATCH) if tiny else batch_size
        return lambda: drawing_speed(models[family], count, seconds, ceiling())

    parts: dict[str, Any] = {"micro_batch": 8, "gradient_checkpointing": True}
    return {
        "sd1 erase: safediff": train("sd1", safediff),
        "sd1 reference loop, float16": reference("sd1", half=True),
        "sd1 erase: paper": train("sd1", paper),
        "sdxl erase: safediff, micro_batch 8, checkpointing": train("sdxl", safediff, **parts),
        "sdxl reference loop, float16": reference("sdxl", half=True),
        "sdxl erase: paper": train("sdxl", paper),
        "sd1 erase: fast, lean": train("sd1", fast, **LEAN),
        "sdxl erase: fast, lean": train("sdxl", fast, **LEAN),
        "sd1 erase: paper, lean": train("sd1", paper, **LEAN),
        "sdxl erase: paper, lean": train("sdxl", paper, **LEAN),
        "sdxl erase: paper, lean, offload_average": train(
            *("sdxl", paper), **LEAN, offload_average=True
        ),
        "sd1 erase: fast": train("sd1", fast),
        "sdxl erase: fast": train("sdxl", fast),
        "sd1 reference loop, float32": reference("sd1", half=False),
        "sdxl reference loop, float32": reference("sdxl", half=False),
        "sd1 draw": draw("sd1", 16),
        "sdxl draw": draw("sdxl", 4),
        "sd1 erase: safediff, channels_last": train("sd1", safediff, channels_last=True),
        "sd1 erase: repo, float32": train("sd1", repo, "float32"),
        "sd1 engine": lambda: engine(models["sd1"]),
        "sd1 erase: safediff, compile": train("sd1", safediff, compile=True),
    }


def _tiny(params: DistilParams) -> DistilParams:
    return replace(
        params,
        batch_size=min(params.batch_size, TINY_BATCH),
        reuse=min(params.reuse, TINY_REUSE),
        num_inference_steps=min(params.num_inference_steps, TINY_INFERENCE_STEPS),
    )
