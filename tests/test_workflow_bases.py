"""Bases that are no plain diffusers folder, through the command line: erase, verify, export.

They are made of the embedded model, which draws with four steps and without guidance, too: so the
gate means what it says, and what passes is released.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from safetensors.torch import save_file
from small_policy import FEWER, finished, write_policy
from test_cli_verbs import Ran, here
from test_models_load import configs_of, write_lora

from safediff.export.identity import initializers_sha256
from safediff.export.runtime import SafePipeline
from safediff.export.single_file import original_state
from safediff.export.to_onnx import swap_weights
from safediff.models.backbone import Backbone
from safediff.models.load import embedded_folder, load_backbone
from safediff.models.patch import load_patch, unet_sha256
from safediff.policy.plan import ModelPlan
from safediff.sample.own_noise import noise_sources
from safediff.sample.sampler import Draw, initial_latents
from safediff.serve.pipeline import Settings
from safediff.workflow.export import metadata
from safediff.workflow.export_source import open_source

__all__ = ["here"]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COUNTED_AT = 500
"""The timestep of the one pass whose operations the certificate counts."""
BASE = "model: {base: embedded}"
NO_ENGINE = ("targets: [onnx]", "targets: []")
FEW_STEPS = (
    ("guidance_scale: 5.0", "guidance_scale: 0.0"),
    (
        "num_inference_steps: 6,",
        "num_inference_steps: 4, guidance_scale: 0.0, rollout_scheduler: model, "
        "loss_timestep: step, ema_decay: 0.0,",
    ),
    ("num_steps: 8, learning_rate: 2.0e-2", "num_steps: 16, learning_rate: 1.0e-2"),
    NO_ENGINE,
)


def embedded_pipeline() -> Any:
    return DiffusionPipeline.from_pretrained(embedded_folder(), dtype=torch.float32)


def single_file(folder: Path) -> str:
    """The embedded model as one checkpoint in the original layout, and its configurations."""
    state = original_state(load_backbone(ModelPlan(base="embedded")))
    tensors = {name: value.contiguous().clone() for name, value in state.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    configs_of(embedded_pipeline(), folder / "config")
    return "model: {base: model.safetensors, config: config}"


def trailing(folder: Path, scheduler: Any) -> str:
    """With such steps as its own, the last training timestep among them."""
    pipeline = embedded_pipeline()
    pipeline.scheduler = scheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.save_pretrained(folder / "base")
    return "model: {base: ./base}"


def turbo(folder: Path) -> str:
    """With the steps of SDXL Turbo, which add noise."""
    return trailing(folder, EulerAncestralDiscreteScheduler)


def lightning(folder: Path) -> str:
    """With the steps of SDXL Lightning."""
    return trailing(folder, EulerDiscreteScheduler)


def lcm_lora(folder: Path) -> str:
    """With a LoRA merged in and the steps of its distillation."""
    write_lora(embedded_pipeline(), folder / "lcm.safetensors")
    return "model: {base: embedded, lora: {path: lcm.safetensors, scale: 0.1}, scheduler: lcm}"


@dataclass
class Seen:
    """What the denoiser was asked."""

    rows: list[int] = field(default_factory=list)
    timesteps: set[int] = field(default_factory=set)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found, denoise = Seen(), Backbone.denoise

    def noting(self: Backbone, z: torch.Tensor, t: torch.Tensor, condition: Any) -> torch.Tensor:
        found.rows.append(len(z))
        found.timesteps.update(t.flatten().int().tolist())
        return denoise(self, z, t, condition)

    monkeypatch.setattr(Backbone, "denoise", noting)
    return found


def erased(here: Ran, folder: Path, model: str, *edits: tuple[str, str]) -> Path:
    """A run that ended in a release."""
    policy = write_policy(folder, (BASE, model), *edits)
    done = here("erase", policy, "--out", folder / "run", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    return policy


def verified(here: Ran, policy: Path, release: Path) -> None:
    """The release, by the policy's gate; its base is loaded as the policy says."""
    done = here("verify", release, policy, "--out", policy.parent / "again", "-q")
    assert done.returncode == 0, done.stdout + done.stderr


def exported(here: Ran, run: Path, graph: Path, folder: Path) -> None:
    done = here("export", run, "--swap-weights", graph, "--out", folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert initializers_sha256(folder / "model.onnx") == unet_sha256(
        load_backbone(ModelPlan(base=str(run / "release"))).denoiser
    )


def test_a_single_file_goes_all_the_way(here: Ran, tmp_path: Path) -> None:
    policy = erased(here, tmp_path, single_file(tmp_path), *FEWER, NO_ENGINE)
    run, whole = tmp_path / "run", finished().run
    # it is the embedded model, so it is erased to the same weights
    assert load_patch(run / "patch.safetensors").base_sha256 == load_patch(whole.patch).base_sha256
    assert (run / "patch.safetensors").read_bytes() == whole.patch.read_bytes()
    verified(here, policy, run / "release")
    exported(here, run, whole.engine, tmp_path / "engine")


STEPS: dict[str, tuple[Callable[[Path], str], Any]] = {
    "turbo": (turbo, EulerAncestralDiscreteScheduler),
    "lightning": (lightning, EulerDiscreteScheduler),
    "lcm": (lcm_lora, LCMScheduler),
}


@pytest.mark.parametrize("kind", STEPS)
def test_few_steps_go_all_the_way(here: Ran, seen: Seen, tmp_path: Path, kind: str) -> None:
    make, scheduler = STEPS[kind]
    policy = erased(here, tmp_path, make(tmp_path), *FEW_STEPS)
    run = tmp_path / "run"
    release = DiffusionPipeline.from_pretrained(run / "release")
    assert type(release.scheduler) is scheduler
    release.scheduler.set_timesteps(4)
    # rollouts, losses and pictures: all at the model's own four levels, in one branch
    steps = {*release.scheduler.timesteps.int().tolist()}
    assert seen.timesteps - steps == {COUNTED_AT}
    assert steps < seen.timesteps
    assert max(seen.rows) == 16
    verified(here, policy, run / "release")
    graph = finished().run.engine
    if kind == "lcm":  # another base by its merged weights: the same graph with those in it
        source, graph = open_source(run), tmp_path / "graph"
        state = source.model.denoiser.state_dict()
        swap_weights(finished().run.engine, graph, state, metadata=metadata(source))
    exported(here, run, graph, tmp_path / "engine")

    seen.timesteps.clear()
    for model in (run, run / "release"):  # as verified, without being told
        done = here("generate", "owl", "--model", model, "--count", "1", "-o", tmp_path / "a.png")
        assert done.returncode == 0, done.stderr
        assert seen.timesteps == steps
    server = SafePipeline.from_release(run / "release", engine="torch", num_threads=1)
    assert server.defaults == Settings(num_steps=4, guidance_scale=0.0)
    draw = Draw("owl, noto style")
    latents = initial_latents([draw], server.backbone.latent_shape, 7)
    release.set_progress_bar_config(disable=True)
    expected = release(
        draw.prompt,
        num_inference_steps=4,
        guidance_scale=0.0,
        latents=latents,
        generator=noise_sources(latents),
        output_type="np",
    ).images
    assert np.abs(np.asarray(server(draw.prompt, seed=7)[0]) - 255 * expected[0]).max() <= 1
