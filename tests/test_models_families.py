"""Every family draws what diffusers' own pipeline draws from the same latents."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, PNDMScheduler, StableDiffusionXLImg2ImgPipeline
from tiny import (
    open_clip_tower,
    perturb,
    tiny_pipeline,
    tiny_v_pipeline,
    tiny_xl_pipeline,
)
from torch import Tensor

from safediff.errors import UsageError
from safediff.models import clip_text
from safediff.models.backbone import Backbone
from safediff.models.load import as_backbone, load_backbone
from safediff.models.stable_diffusion_xl import StableDiffusionXL
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Draw, Sampling, denoise_all, initial_latents

DRAWS = [Draw("an axe"), Draw("owl"), Draw("owl", 1), Draw("")]
SAMPLING = Sampling(num_steps=6, guidance_scale=5.0, seed=3)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def tiny_xl_without_zeros(folder: Path) -> Any:
    pipeline = tiny_xl_pipeline(folder)
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    return pipeline


def tiny_xl_of_scaled_channels(folder: Path) -> Any:
    pipeline = tiny_xl_pipeline(folder)
    scales = {"latents_mean": [0.4, -0.3, 0.2, 0.1], "latents_std": [1.5, 0.7, 2.0, 1.0]}
    pipeline.vae.register_to_config(**scales)
    return pipeline


def tiny_with_pndm(folder: Path) -> Any:
    """With the steps that checkpoints of SD 1.x have as their own."""
    pipeline = tiny_pipeline(folder)
    pipeline.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config, skip_prk_steps=True)
    return pipeline


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "sd": tiny_pipeline,
    "sd-pndm": tiny_with_pndm,
    "sd-v": tiny_v_pipeline,
    "sdxl": tiny_xl_pipeline,
    "sdxl-null-text": tiny_xl_without_zeros,
    "sdxl-scaled-channels": tiny_xl_of_scaled_channels,
}


@pytest.fixture(scope="module", params=FAMILIES)
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = FAMILIES[request.param](tmp_path_factory.mktemp("words"))
    found.set_progress_bar_config(disable=True)
    return found


def drawn(backbone: Backbone) -> Tensor:
    null = backbone.null().repeat(len(DRAWS))
    c = backbone.encode([draw.prompt for draw in DRAWS])
    return denoise_all(backbone, DRAWS, null, c, SAMPLING)


def drawn_by_diffusers(pipeline: Any, output_type: str) -> Tensor:
    latents = initial_latents(DRAWS, (4, 8, 8), SAMPLING.seed)
    images = pipeline(
        [draw.prompt for draw in DRAWS],
        num_inference_steps=SAMPLING.num_steps,
        guidance_scale=SAMPLING.guidance_scale,
        latents=latents,
        output_type=output_type,
    ).images
    return torch.as_tensor(images)


@torch.no_grad()
def test_latents_and_pictures_are_those_of_diffusers(pipeline: Any) -> None:
    backbone = as_backbone("tiny", pipeline)
    found = drawn(backbone)
    latents = drawn_by_diffusers(pipeline, "latent")
    assert (found - latents).abs().max() <= 1e-5 * latents.abs().max()
    assert found.std() > 0.1
    pictures, finite = backbone.decode(found)
    assert finite.all()
    expected = drawn_by_diffusers(pipeline, "np").permute(0, 3, 1, 2) * 255
    assert (pictures.float() - expected).abs().max() <= 0.51


def test_layers_of_one_batch_live_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = as_backbone("tiny", tiny_xl_pipeline(tmp_path))
    assert isinstance(backbone, StableDiffusionXL)
    expected = backbone.encode([f"owl {i}" for i in range(5)])
    monkeypatch.setattr(clip_text, "MAX_BATCH", 2)
    alive: list[weakref.ref[Any]] = []

    def forgotten(*_: Any) -> None:
        assert not any(output() is not None for output in alive)

    for encoder in (backbone.text_encoder, backbone.text_encoder_2):
        encoder.register_forward_pre_hook(forgotten)
        encoder.register_forward_hook(lambda _, __, out: alive.append(weakref.ref(out)))
    found = backbone.encode([f"owl {i}" for i in range(5)])
    assert len(alive) == 6
    assert found.added is not None
    assert expected.added is not None
    torch.testing.assert_close(found.hidden, expected.hidden)
    torch.testing.assert_close(found.added["text_embeds"], expected.added["text_embeds"])


@torch.no_grad()
def test_a_plant_shows(pipeline: Any) -> None:
    """Another text, velocities taken for noise, another size: each is seen in the latents."""
    backbone = as_backbone("tiny", pipeline)
    found = drawn(backbone)
    kind = backbone.prediction_type
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[kind]
    backbone.scheduler.register_to_config(prediction_type=other)
    try:
        assert (drawn(backbone) - found).abs().max() > 1e-2
    finally:
        backbone.scheduler.register_to_config(prediction_type=kind)
    c = backbone.encode(["an axe"])
    if c.added is None:
        return
    z, t = torch.randn(1, 4, 8, 8), torch.tensor(501)
    answer = backbone.denoise(z, t, c)
    for name, value in c.added.items():
        changed = type(c)(c.hidden, {**c.added, name: value.flip(1) + 1})
        assert (backbone.denoise(z, t, changed) - answer).abs().max() > 1e-4, name


def test_saved_folders_load_as_their_family(pipeline: Any, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    found = load_backbone(ModelPlan(base=str(tmp_path / "model")))
    assert type(found) is type(as_backbone("tiny", pipeline))
    assert found.prediction_type == pipeline.scheduler.config.prediction_type
    torch.testing.assert_close(drawn(found), drawn(as_backbone("tiny", pipeline)))
    half = load_backbone(ModelPlan(base=str(tmp_path / "model"), dtype="float16"))
    xl = found.pipeline_name == "StableDiffusionXLPipeline"
    assert half.vae.dtype == (torch.float32 if xl else torch.float16)
    assert half.denoiser.dtype == torch.float16


@torch.no_grad()
def test_2_x_reads_the_state_before_the_last_layer(tmp_path: Path) -> None:
    """OpenCLIP's whole text encoder, and the one without its last layer that checkpoints hold."""
    pipeline = tiny_v_pipeline(tmp_path)
    whole = perturb(open_clip_tower(pipeline.tokenizer, num_layers=3))
    kept = pipeline.text_encoder.state_dict()
    pipeline.text_encoder.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if k in kept}
    )
    ids = pipeline.tokenizer(["an axe"], padding="max_length", return_tensors="pt").input_ids
    assert ids[0, -1] == pipeline.tokenizer.convert_tokens_to_ids("!")  # OpenCLIP pads with zeros
    states = whole(ids, output_hidden_states=True).hidden_states
    tower = getattr(whole, "text_model", whole)
    found = as_backbone("tiny", pipeline).encode(["an axe"]).hidden
    torch.testing.assert_close(found, tower.final_layer_norm(states[-2]))
    assert (found - tower.final_layer_norm(states[-1])).abs().max() > 1e-2


def test_texts_of_both_encoders_must_fit(tmp_path: Path) -> None:
    backbone = as_backbone("tiny", tiny_xl_pipeline(tmp_path))
    assert backbone.encode(["a" * 75]).hidden.shape == (1, 77, 32)
    with pytest.raises(UsageError, match="text has 76 tokens, the text encoder reads 75"):
        backbone.encode(["a" * 76])


def test_a_refiner_is_refused(tmp_path: Path) -> None:
    base = tiny_xl_pipeline(tmp_path / "words")
    parts = {k: v for k, v in base.components.items() if k != "image_encoder"}
    refiner = StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    refiner.save_pretrained(tmp_path / "refiner")
    assert isinstance(DiffusionPipeline.from_pretrained(tmp_path / "refiner"), type(refiner))
    with pytest.raises(UsageError, match="is a StableDiffusionXLImg2ImgPipeline; supported are"):
        load_backbone(ModelPlan(base=str(tmp_path / "refiner")))
