"""The measurements of ``gpu_erase.py``, on the GPU where there is one.

Weights are random: speed and memory do not depend on them. A rate is that of a few timed rollouts;
minutes of a recipe are computed from it by the UNet passes that the whole recipe takes.
"""

import copy
import gc
import importlib.util
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler
from random_model import CONCEPT, KEEP, RandomTexts, random_backbone
from torch.utils.flop_counter import FlopCounterMode

from safediff.erase.memory import GIB, erasing_memory
from safediff.erase.params import DistilParams
from safediff.erase.trainer import DistilTrainer, StepInfo
from safediff.erase.weights import trainable_names
from safediff.models.architecture import Architecture
from safediff.models.backbone import guided
from safediff.models.load import DTYPES
from safediff.policy.cost import distil_passes
from safediff.sample.sampler import Draw, Sampling, denoise_all

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Enough(Exception):
    """A measurement has lasted long enough."""


def trainer_speed(
    architecture: Architecture,
    params: DistilParams,
    dtype: str,
    seconds: float,
    ceiling: float | None,
) -> dict[str, Any]:
    """Passes a second of whole rollouts after the first, and the peak of memory.

    At least one rollout is timed, and ``seconds``. ``ceiling``: TFLOPS that shares refer to; None:
    it is not known, and neither is the share.
    """
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
        if len(marks) >= 2 and marks[-1][0] - marks[0][0] > seconds:
            raise Enough

    finished = True
    try:
        trainer.run(on_step)
    except Enough:
        finished = False
    (began, passes_0, steps_0), (ended, passes_1, steps_1) = marks[0], marks[-1]
    timed = passes_1 - passes_0, steps_1 - steps_0, ended - began
    expected = erasing_memory(architecture, params, dtype).training
    return {
        **_rates(params, *timed, flops, ceiling),
        "finished": finished,
        **_memory(),
        "expected_peak_gib": expected / GIB,
        "settings": {"dtype": dtype, "batch_size": params.batch_size, "reuse": params.reuse},
    }


def _rates(
    params: DistilParams,
    passes: int,
    steps: int,
    seconds: float,
    flops: float,
    ceiling: float | None,
) -> dict[str, Any]:
    """What was timed, and the whole recipe computed from it by its passes."""
    rate, whole = passes / seconds, distil_passes(params)
    return {
        "passes_per_s": rate,
        "steps_per_s": steps / seconds,
        "timed_steps": steps,
        "timed_s": seconds,
        "share_of_ceiling": _share(rate * flops, ceiling),
        "steps_of_the_recipe": params.num_steps,
        "passes_of_the_recipe": whole,
        "minutes_of_the_recipe": whole / rate / 60,
    }


def _share(flops_per_s: float, ceiling: float | None) -> float | None:
    return None if ceiling is None else flops_per_s / (ceiling * 1e12)


def reference_speed(
    architecture: Architecture,
    params: DistilParams,
    half: bool,
    seconds: float,
    ceiling: float | None,
) -> dict[str, Any]:
    """SDD as published and written out plainly: two UNets in float32, batch 1, one loss a rollout.

    ``half``: its forward passes under float16 autocast, gradients scaled. Few steps are timed, so
    each rollout ends in the middle, which is where they end on average.
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
    n, steps, began, ended = params.num_inference_steps, 0, 0.0, 0.0
    u = n // 2
    scale = 8192.0 if half else 1.0
    while steps < 3 or ended - began < seconds:
        scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
        scheduler.set_timesteps(n)
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
        steps += 1
    timed = (steps - 1) * (2 * u + 4), steps - 1, ended - began
    return {**_rates(params, *timed, flops, ceiling), **_memory()}


def drawing_speed(
    architecture: Architecture, batch_size: int, seconds: float, ceiling: float | None
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
        "share_of_ceiling": _share(rate * 50 * flops, ceiling),
        **_memory(),
    }


def engine(architecture: Architecture) -> dict[str, Any]:
    """Seconds to export, and to build a TensorRT plan where TensorRT is installed."""
    from safediff.export.plan_profile import Profile
    from safediff.export.to_onnx import export_denoiser
    from safediff.export.to_tensorrt import build

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


def require_alive() -> None:
    """Raise where an error has left the GPU unusable for this process."""
    _wait()
    torch.ones(1, device=DEVICE).item()


def free() -> None:
    """Give back what the last measurement held."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _reset_peak() -> None:
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _memory() -> dict[str, float | None]:
    """GiB at the peak since the last reset, while what was measured is still there.

    ``peak``: of tensors. ``reserved``: what PyTorch took for them. ``driver``: what the device has
    beyond that in use, by context, kernels and libraries. ``device_used``: both, what a card must
    have. All None without a GPU.
    """
    names = ("peak_gib", "reserved_gib", "driver_gib", "device_used_gib")
    if DEVICE != "cuda":
        return dict.fromkeys(names)
    available, whole = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    driver = whole - available - torch.cuda.memory_reserved()
    found = (torch.cuda.max_memory_allocated(), reserved, driver, reserved + driver)
    return {name: value / GIB for name, value in zip(names, found, strict=True)}
