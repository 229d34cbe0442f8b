"""The engine in the place of the UNet, and what it refuses."""

import shutil
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from tiny import (
    NUM_TOKENS,
    TEXT_DIM,
    tiny_backbone,
    tiny_engine,
    tiny_pipeline,
    tiny_unet,
    tiny_xl_pipeline,
)

from safediff.errors import Inconclusive, UsageError
from safediff.export.engine_files import CONFIG_NAME, DATA_NAME, MODEL_NAME
from safediff.export.runtime import CPU_PROVIDER, ExportedUNet

Z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
C = torch.randn(2, NUM_TOKENS, TEXT_DIM, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def engine() -> ExportedUNet:
    return ExportedUNet(tiny_engine(), num_threads=1)


def draw(pipeline: object) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    return pipeline(
        ["a hammer", "a cat"],
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=generator,
        output_type="pt",
    ).images


def test_stable_diffusion_pipeline_draws_the_same_pictures(
    tmp_path: Path, engine: ExportedUNet
) -> None:
    pipeline = tiny_pipeline(tmp_path)
    expected = draw(pipeline)
    pipeline.unet = engine
    found = draw(pipeline)
    assert (found - expected).abs().max() < 1e-4
    pipeline.unet = tiny_unet(seed=9)
    assert (draw(pipeline) - expected).abs().max() > 1e-2


# diffusers' Euler scheduler hands tensors to numpy in a way that numpy 2 deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_xl_pipeline_draws_the_same_pictures(tmp_path: Path) -> None:
    pipeline = tiny_xl_pipeline(tmp_path)
    expected = draw(pipeline)
    pipeline.unet = ExportedUNet(tiny_engine(True, "fp32", 23), num_threads=1)
    assert (draw(pipeline) - expected).abs().max() < 1e-4


def test_engine_serves_a_backbone(tmp_path: Path, engine: ExportedUNet) -> None:
    backbone = tiny_backbone(tmp_path)
    condition = backbone.encode(["a hammer", ""])
    compiled = backbone.with_denoiser(engine)
    assert compiled.latent_shape == backbone.latent_shape
    with torch.no_grad():
        expected = backbone.denoise(Z, torch.tensor([501, 501]), condition)
    found = compiled.denoise(Z, torch.tensor([501, 501]), condition)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_ways_to_call(engine: ExportedUNet) -> None:
    expected = engine(Z, 501, C, return_dict=False)[0]
    torch.testing.assert_close(engine(Z, torch.tensor(501), C).sample, expected, atol=0, rtol=0)
    by_name = engine(sample=Z, timestep=501.0, encoder_hidden_states=C, cross_attention_kwargs={})
    torch.testing.assert_close(by_name.sample, expected, atol=0, rtol=0)
    assert not torch.equal(engine(Z, 501.5, C).sample, expected)


def test_type_of_the_sample_comes_back() -> None:
    half = ExportedUNet(tiny_engine(False, "fp16", 23), num_threads=1)
    assert half.dtype == torch.float16
    assert half(Z, 501, C).sample.dtype == torch.float32
    assert half(Z.half(), 501, C.half()).sample.dtype == torch.float16


def test_number_of_threads(engine: ExportedUNet) -> None:
    assert engine._session.ort.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    "argument",
    [
        {"timestep_cond": torch.zeros(2, 8)},
        {"cross_attention_kwargs": {"scale": 0.5}},
        {"down_block_additional_residuals": (torch.zeros(1),)},
        {"mid_block_additional_residual": torch.zeros(1)},
        {"attention_mask": torch.ones(2, 77)},
        {"encoder_attention_mask": torch.ones(2, 77)},
        {"class_labels": torch.zeros(2)},
        {"added_cond_kwargs": {"text_embeds": torch.zeros(2, 16)}},
    ],
)
def test_arguments_that_would_be_ignored_are_refused(
    engine: ExportedUNet, argument: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match="exported UNet"):
        engine(Z, 501, C, **argument)


def test_xl_needs_its_added_conditions() -> None:
    xl = ExportedUNet(tiny_engine(True, "fp32", 23), num_threads=1)
    assert xl.add_embedding.linear_1.in_features == 64
    with pytest.raises(TypeError, match=r"takes \['text_embeds', 'time_ids'\]"):
        xl(Z, 501, torch.zeros(2, NUM_TOKENS, 2 * TEXT_DIM))


def test_shapes_that_the_graph_cannot_take(engine: ExportedUNet) -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        engine(Z[:, :, :7], 501, C)
    with pytest.raises(ValueError, match=r"sample has shape \(2, 3, 8, 8\)"):
        engine(Z[:, :3], 501, C)
    with pytest.raises(ValueError, match=r"encoder_hidden_states has shape \(1, 77, 16\)"):
        engine(Z, 501, C[:1])
    with pytest.raises(ValueError, match=r"encoder_hidden_states has shape \(2, 20, 16\)"):
        engine(Z, 501, C[:, :20])
    with pytest.raises(ValueError, match=r"one timestep .* \[1.0, 2.0\]"):
        engine(Z, torch.tensor([1, 2]), C)


def test_provider_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="CUDAExecutionProvider is not available here"):
        ExportedUNet(tiny_engine(), provider="CUDAExecutionProvider")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_provider_that_is_silently_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU_PROVIDER]
    )
    with pytest.raises(Inconclusive, match=f"ONNX Runtime chose {CPU_PROVIDER}"):
        ExportedUNet(tiny_engine(), provider="CUDAExecutionProvider")


def damage(folder: Path, how: str) -> None:
    match how:
        case "truncated data":
            data = (folder / DATA_NAME).read_bytes()
            (folder / DATA_NAME).write_bytes(data[: len(data) // 2])
        case "no data":
            (folder / DATA_NAME).unlink()
        case "no graph":
            (folder / MODEL_NAME).unlink()
        case "garbage graph":
            (folder / MODEL_NAME).write_bytes(b"not protobuf")
        case "no config":
            (folder / CONFIG_NAME).unlink()
        case "foreign config":
            (folder / CONFIG_NAME).write_text("[]")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated data", "the engine can't be loaded"),
        ("no data", "the engine can't be loaded"),
        ("no graph", "no such engine"),
        ("garbage graph", "the engine can't be loaded"),
        ("no config", "not the configuration of an exported UNet"),
        ("foreign config", "not the configuration of an exported UNet"),
    ],
)
def test_damaged_engine_is_one_clear_line(tmp_path: Path, how: str, message: str) -> None:
    shutil.copytree(tiny_engine(), tmp_path / "e")
    damage(tmp_path / "e", how)
    with pytest.raises(Inconclusive, match=message) as caught:
        ExportedUNet(tmp_path / "e")
    assert "\n" not in str(caught.value)
    assert caught.value.next_step
