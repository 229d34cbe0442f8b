"""Erasing and drawing at the sizes of Stable Diffusion on one GPU: speed and memory.

Weights are random: speed and memory do not depend on them, and nothing is said about erasure.
Measured are the card's bfloat16 matrix product (the ceiling that shares refer to), whole rollouts
of the trainer in several settings, the published loop written out plainly (batch 1, one loss per
rollout, a student and a teacher UNet), drawing, and an engine where TensorRT is installed. A run is
extrapolated to the whole recipe by the UNet passes that it takes. One stage after another is begun
while ``--budget-s`` lasts; the file is written after each.

    python benchmarks/gpu_erase.py --out benchmarks/gpu_erase.json
    python benchmarks/gpu_erase.py --tiny --out /tmp/tiny.json
"""

import argparse
import copy
import gc
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from diffusers import AutoencoderKL, DDIMScheduler  # noqa: E402
from random_model import CONCEPT, KEEP, RandomTexts, random_backbone  # noqa: E402

from safediff.environment import environment  # noqa: E402
from safediff.erase.memory import GIB, erasing_memory  # noqa: E402
from safediff.erase.params import PRESETS, DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.erase.weights import trainable_names  # noqa: E402
from safediff.models.architecture import SD1, SDXL, Architecture  # noqa: E402
from safediff.models.backbone import guided  # noqa: E402
from safediff.models.load import DTYPES  # noqa: E402
from safediff.policy.cost import distil_passes  # noqa: E402
from safediff.sample.sampler import Draw, Sampling, denoise_all  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
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
    ),
}
REAL = {"sd1": SD1, "sdxl": SDXL}
TARGETS_MINUTES = {"sd1": 5.0, "sdxl": 20.0}
"""What a whole run of the default recipe should take at most."""


class Enough(Exception):
    """A measurement has lasted long enough."""


def main() -> None:
    """Run every stage that there is time for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="small networks, seconds on a CPU")
    parser.add_argument("--budget-s", type=float, default=500.0)
    parser.add_argument("--stage-s", type=float, default=15.0, help="seconds of one measurement")
    parser.add_argument("--skip", nargs="*", default=[], help="stages whose names contain this")
    args = parser.parse_args()
    began, models = time.monotonic(), TINY if args.tiny else REAL
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "tiny": args.tiny,
        "weights": "random",
        "environment": environment(),
        "stages": {},
        "failed": {},
        "not_begun": [],
    }
    result["ceiling_tflops"] = ceiling_tflops(512 if args.tiny else 8192)
    for name, stage in stages(models, args.stage_s, result["ceiling_tflops"]).items():
        skipped = any(word in name for word in args.skip)
        if skipped or time.monotonic() - began > args.budget_s:
            result["not_begun"].append(name)
            continue
        try:
            result["stages"][name] = stage()
        except Exception as error:  # one stage must not cost the others
            first = (str(error).splitlines() or [""])[0]
            result["failed"][name] = f"{type(error).__name__}: {first[:300]}"
        _free()
        print(f"{time.monotonic() - began:5.0f} s  {name}", flush=True)
        print(f"         {result['stages'].get(name) or result['failed'].get(name)}", flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def stages(
    models: dict[str, Architecture], seconds: float, ceiling: float
) -> dict[str, Callable[[], dict[str, Any]]]:
    """All measurements by name, the ones that matter most first."""
    sd1, sdxl = models["sd1"], models["sdxl"]
    safediff, fast, repo = (PRESETS["sdd"][name] for name in ("safediff", "fast", "repo"))
    lean: dict[str, Any] = {"gradient_checkpointing": True, "micro_batch": 1}

    def train(family: str, params: DistilParams, dtype: str = "bfloat16") -> dict[str, Any]:
        row = trainer_speed(models[family], params, dtype, seconds, ceiling)
        return row | {"target_minutes": TARGETS_MINUTES[family]}

    return {
        "sd1 erase: safediff": lambda: train("sd1", safediff),
        "sd1 erase: fast": lambda: train("sd1", fast),
        "sd1 reference loop, float32": lambda: reference_speed(sd1, repo, False, seconds, ceiling),
        "sd1 reference loop, float16": lambda: reference_speed(sd1, repo, True, seconds, ceiling),
        "sd1 erase: fast, lean": lambda: train("sd1", replace(fast, **lean)),
        "sdxl erase: safediff, micro_batch 8, checkpointing": lambda: train(
            "sdxl", replace(safediff, micro_batch=8, gradient_checkpointing=True)
        ),
        "sdxl erase: fast": lambda: train("sdxl", fast),
        "sdxl erase: fast, lean": lambda: train("sdxl", replace(fast, **lean)),
        "sd1 draw": lambda: drawing_speed(sd1, 16, seconds, ceiling),
        "sdxl draw": lambda: drawing_speed(sdxl, 4, seconds, ceiling),
        "sd1 erase: safediff, channels_last": lambda: train(
            "sd1", replace(safediff, channels_last=True)
        ),
        "sd1 erase: repo, float32": lambda: train("sd1", repo, "float32"),
        "sd1 engine": lambda: engine(sd1),
        "sd1 erase: safediff, compile": lambda: train("sd1", replace(safediff, compile=True)),
    }


def trainer_speed(
    architecture: Architecture, params: DistilParams, dtype: str, seconds: float, ceiling: float
) -> dict[str, Any]:
    """Passes a second of whole rollouts after the first, and the peak of memory."""
    backbone = random_backbone(architecture, DTYPES[dtype], DEVICE)
    flops = flops_per_pass(backbone)
    _reset_peak()
    trainer = DistilTrainer(backbone, (CONCEPT,), KEEP, replace(params, log_every=10**6), seed=0)
    marks: list[tuple[float, int, int]] = []
    """Seconds, passes, steps at the end of each rollout."""

    def on_step(info: StepInfo) -> None:
        if (info.step + 1) % params.reuse:
            return
        _wait()
        marks.append((time.monotonic(), info.num_passes, info.step + 1))
        if len(marks) > 2 and marks[-1][0] - marks[0][0] > seconds:
            raise Enough

    finished = True
    try:
        trainer.run(on_step)
    except Enough:
        finished = False
    (began, passes_0, steps_0), (ended, passes_1, steps_1) = marks[0], marks[-1]
    rate = (passes_1 - passes_0) / (ended - began)
    whole = distil_passes(params)
    expected = erasing_memory(architecture, params, dtype).training
    return {
        "passes_per_s": rate,
        "steps_per_s": (steps_1 - steps_0) / (ended - began),
        "share_of_ceiling": rate * flops / (ceiling * 1e12),
        "passes_of_the_recipe": whole,
        "minutes_of_the_recipe": whole / rate / 60,
        "finished": finished,
        "peak_gib": _peak_gib(),
        "expected_peak_gib": expected / GIB,
        "settings": {"dtype": dtype, "batch_size": params.batch_size, "reuse": params.reuse},
    }


def reference_speed(
    architecture: Architecture, params: DistilParams, half: bool, seconds: float, ceiling: float
) -> dict[str, Any]:
    """SDD as published and written out plainly: two UNets in float32, batch 1, one loss a rollout.

    ``half``: its forward passes under float16 autocast, gradients scaled.
    """
    backbone = random_backbone(architecture, torch.float32, DEVICE)
    flops = flops_per_pass(backbone)
    _reset_peak()
    student, teacher = backbone.denoiser, copy.deepcopy(backbone.denoiser)
    trained = set(trainable_names(student, params.trainable))
    pairs = [
        (value.requires_grad_(True), mean)
        for (name, value), mean in zip(
            student.named_parameters(), teacher.parameters(), strict=True
        )
        if name in trained
    ]
    adam = torch.optim.AdamW([value for value, _ in pairs], lr=params.learning_rate)
    c_0, c_p = (backbone.encode([text]) for text in ("", "axe, bomb"))
    drawn = torch.Generator().manual_seed(0)
    n, passes, steps, began, ended = params.num_inference_steps, 0, 0, 0.0, 0.0
    scale = 8192.0 if half else 1.0
    while steps < 3 or ended - began < seconds:
        scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
        scheduler.set_timesteps(n)
        u = int(torch.randint(n, (), generator=drawn)) if steps else n // 2
        z = torch.randn(1, *backbone.latent_shape, generator=drawn).to(DEVICE)
        rolling = backbone.with_denoiser(teacher)
        with torch.autocast(DEVICE, torch.float16 if DEVICE == "cuda" else torch.bfloat16, half):
            with torch.no_grad():
                for t in scheduler.timesteps[:u]:
                    eps = guided(rolling, z, t, c_0, c_p, params.guidance_scale)
                    z = scheduler.step(eps, t, z, return_dict=False)[0]
                t = torch.tensor([999 - (1000 // n) * u], device=DEVICE)
                target = backbone.denoise(z, t, c_0)
            loss = F.mse_loss(backbone.denoise(z, t, c_p).float(), target.float())
        (loss * scale).backward()
        for value, _ in pairs:
            if value.grad is not None:
                value.grad /= scale
        torch.nn.utils.clip_grad_norm_([value for value, _ in pairs], params.max_grad_norm)
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            for value, mean in pairs:
                mean.lerp_(value, 1 - params.ema_decay)
        _wait()
        ended = time.monotonic()
        if steps == 0:
            began = ended  # the first warms up
        else:
            passes += 2 * u + 4
        steps += 1
    rate, whole = passes / (ended - began), distil_passes(params)
    return {
        "passes_per_s": rate,
        "steps_per_s": (steps - 1) / (ended - began),
        "share_of_ceiling": rate * flops / (ceiling * 1e12),
        "passes_of_the_recipe": whole,
        "minutes_of_the_recipe": whole / rate / 60,
        "peak_gib": _peak_gib(),
    }


def drawing_speed(
    architecture: Architecture, batch_size: int, seconds: float, ceiling: float
) -> dict[str, Any]:
    """Pictures a second with 25 steps and guidance, in bfloat16, decoding included."""
    backbone = random_backbone(architecture, torch.bfloat16, DEVICE)
    vae = AutoencoderKL.from_config(dict(architecture.vae)).to(DEVICE, torch.bfloat16).eval()
    backbone = replace(backbone, vae=vae)
    flops = flops_per_pass(backbone)
    draws = [Draw("axe", index) for index in range(batch_size)]
    c_0, c = (backbone.encode([text]).repeat(batch_size) for text in ("", "axe"))
    sampling = Sampling(num_steps=25, guidance_scale=7.5, batch_size=batch_size)
    _reset_peak()
    times: list[float] = []
    with torch.no_grad():
        while len(times) < 3 or times[-1] - times[0] < seconds:
            backbone.decode(denoise_all(backbone, draws, c_0, c, sampling))
            _wait()
            times.append(time.monotonic())
    rate = (len(times) - 1) * batch_size / (times[-1] - times[0])
    return {
        "pictures_per_s": rate,
        "batch_size": batch_size,
        "share_of_ceiling": rate * 50 * flops / (ceiling * 1e12),
        "peak_gib": _peak_gib(),
    }


def engine(architecture: Architecture) -> dict[str, Any]:
    """Seconds to export, and to build a TensorRT plan where TensorRT is installed."""
    from safediff.export.to_onnx import export_denoiser
    from safediff.export.to_tensorrt import Profile, build

    unet = random_backbone(architecture).denoiser
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        began = time.monotonic()
        export_denoiser(unet, Path(work) / "engine", precision="fp16")
        row["export_s"] = time.monotonic() - began
        if DEVICE == "cpu" or importlib.util.find_spec("tensorrt") is None:
            return row | {"tensorrt": "not installed, or no GPU"}
        side = unet.config.sample_size
        profile = Profile(min_side=side, opt_side=side, max_side=side)
        began = time.monotonic()
        sidecar = build(Path(work) / "engine", Path(work) / "unet.plan", "tensorrt", profile)
        row["tensorrt_build_s"] = time.monotonic() - began
        row["tensorrt"] = sidecar["module_version"]
        row["plan_mib"] = sidecar["size_bytes"] / 2**20
    return row


@torch.no_grad()
def flops_per_pass(backbone: RandomTexts) -> float:
    """Matrix and convolution FLOPs of one sample through the UNet once."""
    c = backbone.null()
    z = torch.zeros(1, *backbone.latent_shape).to(c.hidden)
    with FlopCounterMode(display=False) as counter:
        backbone.denoise(z, torch.tensor(500, device=z.device), c)
    return float(counter.get_total_flops())


def ceiling_tflops(size: int) -> float:
    """The best of a few bfloat16 products of two square matrices."""
    a = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        _wait()
        began = time.perf_counter()
        for _ in range(5):
            a @ a
        _wait()
        best = min(best, (time.perf_counter() - began) / 5)
    return 2 * size**3 / best / 1e12


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _free() -> None:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def _reset_peak() -> None:
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_gib() -> float | None:
    """As PyTorch allocated it; None without a GPU."""
    return torch.cuda.max_memory_allocated() / GIB if DEVICE == "cuda" else None


if __name__ == "__main__":
    main()
