"""SDXL, and 2.x, exported as a whole draw what diffusers' own pipelines draw; what is refused."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_open_clip_checkpoint,
)
from PIL import Image
from serving_examples import PIPELINES, copy_of, exported, exported_of, recertified, release
from tiny import Form, tiny_engine, tiny_xl_backbone, tiny_xl_pipeline
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from safediff.errors import Inconclusive, UsageError
from safediff.export.engine_files import DATA_NAME, MODEL_NAME
from safediff.export.exported_parts import ExportedTextEncoder
from safediff.export.identity import verify_identity
from safediff.export.manifest import read_manifest
from safediff.export.parts import export_text_encoder, export_vae_decoder
from safediff.export.runtime import SafePipeline
from safediff.export.single_file import (
    UNET,
    XL_TEXT_2,
    open_clip_state,
    original_state,
    unet_name,
)
from safediff.export.to_triton import check_config
from safediff.models import architecture
from safediff.models.patch import state_sha256
from safediff.release.certificate import CERTIFICATE_NAME
from safediff.release.checksums import write_checksums
from safediff.sample.sampler import Draw, initial_latents
from safediff.serve.pipeline import Settings
from safediff.workflow.deploy import deploy
from safediff.workflow.export_source import open_source

FEW = Settings(num_steps=6, guidance_scale=5.0)
PROMPTS = ["an owl", "a rose", "an axe"]
SEED = 5
LEVEL = 1.0
"""Of 255, to which compiled and diffusers' pictures agree: rounding decides the last one."""
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def arrays(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(float)


def drawn(path: Path, **options: Any) -> np.ndarray:
    pipeline = SafePipeline.from_release(path, num_threads=1, **options)
    return arrays(pipeline(PROMPTS, seed=SEED, settings=FEW))


def drawn_by_diffusers(pipeline: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        PROMPTS,
        num_inference_steps=FEW.num_steps,
        guidance_scale=FEW.guidance_scale,
        latents=initial_latents([Draw(prompt) for prompt in PROMPTS], (4, 8, 8), SEED),
        output_type="np",
    ).images
    return np.asarray(images) * 255


def with_null_text(path: Path) -> Path:
    """The exported folder of a model whose empty prompt is read by the encoders."""
    copy_of(exported(xl=True), path)
    index = path / "model_index.json"
    stored = json.loads(index.read_text())
    assert stored["force_zeros_for_empty_prompt"] is True
    index.write_text(json.dumps(stored | {"force_zeros_for_empty_prompt": False}))
    write_checksums(path)
    return path


FORMS: tuple[Form, ...] = ("sdxl", "sd-v")


@pytest.mark.parametrize("form", FORMS)
def test_pictures_are_those_of_diffusers(tmp_path: Path, form: Form) -> None:
    pipeline = PIPELINES[form](tmp_path)
    expected = drawn_by_diffusers(pipeline)
    found = drawn(exported_of(form))
    assert np.abs(found - expected).max() <= LEVEL
    assert found.std() > 10
    assert np.abs(drawn(exported_of(form), engine="torch") - expected).max() <= LEVEL
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}
    said = pipeline.scheduler.config.prediction_type
    pipeline.scheduler.register_to_config(prediction_type=other[said])
    assert np.abs(found - drawn_by_diffusers(pipeline)).max() > 10 * LEVEL


def test_an_empty_prompt_that_is_read_draws_other_pictures(tmp_path: Path) -> None:
    pipeline = tiny_xl_pipeline(tmp_path / "words")
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    found = drawn(with_null_text(tmp_path / "r"))
    assert np.abs(found - drawn_by_diffusers(pipeline)).max() <= LEVEL
    assert np.abs(found - drawn(exported(xl=True))).max() > 5 * LEVEL


@pytest.mark.parametrize("form", FORMS)
def test_every_part_runs_compiled(form: Form) -> None:
    backbone = SafePipeline.from_release(exported_of(form)).backbone
    kinds = {name: type(part).__name__ for name, part in backbone.components().items()}
    assert kinds["unet"] == "ExportedUNet"
    assert kinds["vae"] == "ExportedDecoder"
    encoders = {name: kind for name, kind in kinds.items() if name.startswith("text_encoder")}
    assert len(encoders) == (2 if form == "sdxl" else 1)
    assert {*encoders.values()} == {"ExportedTextEncoder"}


def test_the_folder_is_what_optimum_looks_for() -> None:
    path = exported(xl=True)
    index = json.loads((path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    for part in ("unet", "text_encoder", "text_encoder_2", "vae_decoder"):
        assert (path / part / "config.json").is_file(), part
    for part in ("tokenizer", "tokenizer_2"):
        assert {"vocab.json", "merges.txt"} <= {file.name for file in (path / part).iterdir()}
    names = {
        part: ([v.name for v in s.get_inputs()], [v.name for v in s.get_outputs()])
        for part in ("unet", "text_encoder", "text_encoder_2", "vae_decoder")
        for s in [ort.InferenceSession(str(path / part / MODEL_NAME))]
    }
    layers = [f"hidden_states.{i}" for i in range(3)]
    added = ["text_embeds", "time_ids"]
    assert names == {
        "unet": (["sample", "timestep", "encoder_hidden_states", *added], ["out_sample"]),
        "text_encoder": (["input_ids"], ["last_hidden_state", "pooler_output", *layers]),
        "text_encoder_2": (["input_ids"], ["text_embeds", "last_hidden_state", *layers]),
        "vae_decoder": (["latent_sample"], ["sample"]),
    }
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest["engines"][0]["parity"]["passed"]


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_text_encoders_compute_the_same(part: str) -> None:
    pipeline = DiffusionPipeline.from_pretrained(exported(xl=True))
    encoder = getattr(pipeline, part)
    rows = pipeline.tokenizer_2(["an axe", "", "x"], padding="max_length", max_length=77)
    ids = torch.tensor(rows["input_ids"])
    found = ExportedTextEncoder(exported(xl=True) / part)(ids, output_hidden_states=True)
    with torch.no_grad():
        expected = encoder(ids, output_hidden_states=True)
    assert type(found) is type(expected)
    assert found.keys() == expected.keys()
    for a, b in zip(flat(found), flat(expected), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    path = exported(xl=True) / part / MODEL_NAME
    verify_identity(path, encoder.state_dict(), "text_encoder.")
    key, weight = next(iter(encoder.state_dict().items()))
    with pytest.raises(Inconclusive, match="differs from the weights"):
        verify_identity(path, {**encoder.state_dict(), key: weight + 1e-3}, "text_encoder.")


def flat(output: Any) -> list[Tensor]:
    parts = [p if isinstance(p, tuple) else (p,) for p in output.to_tuple()]
    return [tensor for part in parts for tensor in part]


def test_an_encoder_without_states_of_its_layers_says_so(tmp_path: Path) -> None:
    encoder_2 = tiny_xl_pipeline(tmp_path / "words").text_encoder_2
    export_text_encoder(encoder_2, tmp_path / "engine", 77, torch.float32, 18)
    encoder = ExportedTextEncoder(tmp_path / "engine")
    ids = torch.ones(1, 77, dtype=torch.long)
    assert list(encoder(ids).keys()) == ["text_embeds", "last_hidden_state"]
    with pytest.raises(TypeError, match="has no hidden states but the last"):
        encoder(ids, output_hidden_states=True)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts in fp16 around the certified UNet in fp32; do not write to it."""
    path = tmp_path_factory.mktemp("half") / "r"
    unet = partial(shutil.copytree, tiny_engine(xl=True))
    deploy(open_source(release(xl=True)), path, "fp16", 18, engine=unet)
    return path


def test_in_half_precision_an_autoencoder_that_overflows_stays_in_float32(half: Path) -> None:
    pipeline = SafePipeline.from_release(half)
    backbone: Any = pipeline.backbone
    assert backbone.text_encoder.dtype == backbone.text_encoder_2.dtype == torch.float16
    assert backbone.decodes_in_float32
    assert backbone.vae.dtype == torch.float32
    found = arrays(pipeline(PROMPTS, seed=SEED, settings=FEW))
    assert 0 < np.abs(found - drawn(exported(xl=True))).max() <= 8


def forget(path: Path, part: str) -> None:
    """Take a part's entry out of the certificate, as releases of earlier versions have none."""
    file = path / CERTIFICATE_NAME
    certificate = json.loads(file.read_text())
    kept = [row for row in certificate["engines"] if row["part"] != part]
    assert len(kept) < len(certificate["engines"])
    file.write_text(json.dumps(certificate | {"engines": kept}))


def test_a_decoder_that_would_overflow_is_refused(half: Path, tmp_path: Path) -> None:
    path = copy_of(half, tmp_path / "r")
    decoder = path / "vae_decoder"
    export_vae_decoder(tiny_xl_pipeline(tmp_path / "words").vae, decoder, torch.float16, 18)
    write_checksums(path)
    with pytest.raises(UsageError, match=r"vae_decoder/model.onnx is not the file that the cert"):
        SafePipeline.from_release(path)
    recertified(path)
    with pytest.raises(Inconclusive, match=r"computes in torch\.float16, this autoencoder needs"):
        SafePipeline.from_release(path)
    config = json.loads((decoder / "config.json").read_text())
    (decoder / "config.json").write_text(json.dumps(config | {"force_upcast": False}))
    write_checksums(path)
    backbone = SafePipeline.from_release(path).backbone
    assert backbone.vae.dtype == torch.float16


def test_a_missing_engine_is_named(tmp_path: Path) -> None:
    path = copy_of(exported(xl=True), tmp_path / "r")
    for name in (MODEL_NAME, DATA_NAME):
        (path / "text_encoder_2" / name).unlink(missing_ok=True)
    write_checksums(path)
    with pytest.raises(UsageError, match=r"text_encoder_2/model.onnx is not the file that the"):
        SafePipeline.from_release(path)
    forget(path, "text_encoder_2")
    write_checksums(path)
    with pytest.raises(Inconclusive, match=r"text_encoder_2/model\.onnx: no such engine"):
        SafePipeline.from_release(path)


def test_a_release_with_a_unet_engine_alone_is_served_too(tmp_path: Path) -> None:
    expected = drawn_by_diffusers(tiny_xl_pipeline(tmp_path))
    assert np.abs(drawn(release(xl=True)) - expected).max() <= LEVEL


def test_the_triton_repository_has_the_added_inputs() -> None:
    folder = exported(xl=True) / "triton" / "safediff_unet"
    message = check_config((folder / "config.pbtxt").read_text())
    assert [(t["name"], t["dims"]) for t in message["input"]] == [
        ("sample", [-1, 4, -1, -1]),
        ("timestep", [1]),
        ("encoder_hidden_states", [-1, 77, 32]),
        ("text_embeds", [-1, 16]),
        ("time_ids", [-1, 6]),
    ]


def test_one_file_with_the_original_names(tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(exported(xl=True), configs, ignore=shutil.ignore_patterns("*.safetensors"))
    single = StableDiffusionXLPipeline.from_single_file(
        str(exported(xl=True) / "model.safetensors"), config=str(configs), local_files_only=True
    )
    pipeline = DiffusionPipeline.from_pretrained(exported(xl=True))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        found, expected = getattr(single, part), getattr(pipeline, part)
        assert state_sha256(found.state_dict()) == state_sha256(expected.state_dict()), part


def test_names_of_the_published_checkpoint(tmp_path: Path) -> None:
    names = set(original_state(tiny_xl_backbone(tmp_path)))
    assert names > {
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
        "conditioner.embedders.1.model.positional_embedding",
        "conditioner.embedders.1.model.text_projection",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
        "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_proj.bias",
        "first_stage_model.decoder.mid.attn_1.q.weight",
    }
    with pytest.raises(Inconclusive, match=r"vision\.weight: has no name in the original form"):
        open_clip_state({"vision.weight": torch.zeros(1)})


def test_networks_of_real_size_come_back_from_diffusers_own_converter() -> None:
    """Names and shapes; nothing is computed."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**architecture.SDXL.unet)
        encoder = CLIPTextModelWithProjection(
            CLIPTextConfig(**architecture.SDXL.text_encoders[1], projection_dim=1280)
        )
    state = unet.state_dict()
    attends = ["CrossAttn" in block for block in unet.config.up_block_types]
    original = {UNET + unet_name(k, 2, attends): v for k, v in state.items()}
    assert len(original) == len(state)
    back = convert_ldm_unet_checkpoint(dict(original), dict(unet.config))
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}
    wanted = {name_4(k): v.shape for k, v in encoder.state_dict().items()}
    tower = {XL_TEXT_2 + k: v for k, v in open_clip_state(encoder.state_dict()).items()}
    back = convert_open_clip_checkpoint(encoder, tower, XL_TEXT_2)
    assert {name_4(k): v.shape for k, v in back.items()} == wanted


def name_4(key: str) -> str:
    """Without the level that transformers 5 dropped."""
    return key.removeprefix("text_model.")
