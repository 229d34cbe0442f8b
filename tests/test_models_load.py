"""Single-file checkpoints, merged LoRAs, and what is no text-to-image model."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import yaml
from peft import LoraConfig
from safetensors.torch import save_file
from tiny import (
    TEXT_DIM,
    fresh_unet,
    perturb,
    tiny_pipeline,
    tiny_v_pipeline,
    tiny_xl_pipeline,
)
from torch import Tensor

from safediff.erase.methods import resolve
from safediff.erase.params import DistilParams
from safediff.errors import Inconclusive, PolicyError, UsageError
from safediff.export.single_file import TEXT, open_clip_state, original_state
from safediff.models import load, original_layout
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.original_layout import CONV_IN
from safediff.models.patch import state_sha256, unet_sha256
from safediff.policy.load import load_plan
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Draw, Sampling, sample
from safediff.workflow.subject import open_subject

SAMPLING = Sampling(num_steps=2, guidance_scale=3.0)


def picture(backbone: Backbone) -> Tensor:
    return next(sample(backbone, [Draw("an axe")], SAMPLING))[0].image.int()


def configs_of(pipeline: Any, folder: Path) -> Path:
    """A saved pipeline without its weights."""
    pipeline.save_pretrained(folder)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    return folder


def open_clip_layout(model: Any) -> dict[str, Tensor]:
    """A checkpoint of 2.x: OpenCLIP's own names, and what its text tower has beside the states."""
    state = {k: v for k, v in original_state(model).items() if not k.startswith(TEXT)}
    tower = open_clip_state(model.text_encoder.state_dict())
    unused = {"text_projection": torch.eye(TEXT_DIM), "logit_scale": torch.ones(())}
    return state | {original_layout.OPEN_CLIP + k: v for k, v in {**tower, **unused}.items()}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("make", [tiny_pipeline, tiny_v_pipeline, tiny_xl_pipeline])
def test_a_single_file_is_the_folder(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    pipeline = make(tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "folder")
    config = configs_of(pipeline, tmp_path / "config")
    expected = load_backbone(ModelPlan(base=str(tmp_path / "folder")))
    state = open_clip_layout(expected) if make is tiny_v_pipeline else original_state(expected)
    file = tmp_path / "model.safetensors"
    save_file({k: v.contiguous().clone() for k, v in state.items()}, file, {"format": "pt"})
    found = load_backbone(ModelPlan(base=str(file), config=str(config)))
    assert type(found) is type(expected)
    assert found.prediction_type == expected.prediction_type
    parts, wanted = found.components(), expected.components()
    for name, part in wanted.items():
        if isinstance(part, torch.nn.Module):
            assert state_sha256(parts[name].state_dict()) == state_sha256(part.state_dict()), name
    assert torch.equal(picture(found), picture(expected))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_file_that_predicts_velocities_needs_a_scheduler_that_says_so(tmp_path: Path) -> None:
    pipeline = tiny_xl_pipeline(tmp_path / "words")
    noise = configs_of(pipeline, tmp_path / "noise")
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    velocities = configs_of(pipeline, tmp_path / "velocities")
    pipeline.scheduler.register_to_config(rescale_betas_zero_snr=True)
    whole = configs_of(pipeline, tmp_path / "whole")
    state = original_state(load.as_backbone("tiny", pipeline))
    state |= {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = tmp_path / "model.safetensors"
    save_file({k: v.contiguous().clone() for k, v in state.items()}, file, {"format": "pt"})
    with pytest.raises(UsageError, match=r"'.*noise' says prediction_type 'epsilon'"):
        load_backbone(ModelPlan(base=str(file), config=str(noise)))
    with pytest.raises(UsageError, match=r"velocities' lacks rescale_betas_zero_snr: true"):
        load_backbone(ModelPlan(base=str(file), config=str(velocities)))
    found = load_backbone(ModelPlan(base=str(file), config=str(whole)))
    assert found.prediction_type == "v_prediction"
    assert found.scheduler.config.rescale_betas_zero_snr
    del state["ztsnr"]
    save_file({k: v.contiguous().clone() for k, v in state.items()}, file, {"format": "pt"})
    found = load_backbone(ModelPlan(base=str(file), config=str(velocities)))
    assert found.prediction_type == "v_prediction"


def test_a_folder_of_half_precision_files(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "words")
    pipeline.to(torch.float16).save_pretrained(tmp_path / "model", variant="fp16")
    assert list((tmp_path / "model" / "unet").glob("*.fp16.safetensors"))
    assert not (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    found = load_backbone(ModelPlan(base=str(tmp_path / "model"), dtype="float16"))
    expected = pipeline.unet.state_dict()
    assert all(torch.equal(w, expected[name]) for name, w in found.denoiser.state_dict().items())


def test_a_folder_of_which_one_part_is_in_both_precisions(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "words").to(torch.float16)
    pipeline.save_pretrained(tmp_path / "model", variant="fp16")
    pipeline.vae.save_pretrained(tmp_path / "model" / "vae")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.non_ema.safetensors").touch()
    found = load_backbone(ModelPlan(base=str(tmp_path / "model"), dtype="float16"))
    for part in ("unet", "vae", "text_encoder"):
        wanted = state_sha256(getattr(pipeline, part).state_dict())
        assert state_sha256(found.components()[part].state_dict()) == wanted


CHECKER = {
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "requires_safety_checker": True,
}
OFF = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def test_a_safety_checker_is_left_out_and_need_not_be_there(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "words").save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | CHECKER))
    found = load_backbone(ModelPlan(base=str(tmp_path / "model")))
    assert OFF.items() <= found.components().items()
    diffusers.StableDiffusionPipeline(**found.components()).save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "model_index.json").read_text())
    assert written["safety_checker"] == written["feature_extractor"] == [None, None]
    assert written["requires_safety_checker"] is False


@pytest.mark.parametrize("family", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_of_the_hub_only_1x_is_asked_for_without_its_checker(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    asked: dict[str, Any] = {}

    def noted(name: str, **options: Any) -> None:
        asked.update(options)

    pipeline = diffusers.DiffusionPipeline
    monkeypatch.setattr(pipeline, "load_config", lambda name, revision: {"_class_name": family})
    monkeypatch.setattr(pipeline, "from_pretrained", noted)
    load.load_pipeline(ModelPlan(base="somebody/something", revision="a" * 40))
    assert asked["revision"] == "a" * 40
    assert (OFF.items() <= asked.items()) == (family == "StableDiffusionPipeline")
    assert ("safety_checker" in asked) == (family == "StableDiffusionPipeline")


def test_a_folder_named_like_a_hub_id_does_not_stand_for_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, revision = tmp_path / "owner" / "model", "a1" * 20
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_backbone(ModelPlan(base="owner/model", revision=revision))
    said = f"is read from {folder}, which is not the hub's revision {revision}"
    assert str(caught.value) == f"model.base 'owner/model': {said}"
    with pytest.raises(UsageError, match="only hub ids have a --revision"):
        open_subject("owner/model", revision)
    (folder / "plan.json").touch()  # a run
    with pytest.raises(UsageError, match="only hub ids have a --revision"):
        open_subject("owner/model", revision)
    with pytest.raises(UsageError, match="is not the hub's revision"):
        open_subject("embedded", revision)


def test_without_configurations_or_hub_it_is_said_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"cond_stage_model.x": torch.zeros(1)}, file)

    def unreachable(path: str, **options: Any) -> None:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", unreachable)
    with pytest.raises(Inconclusive, match="couldn't connect") as caught:
        load_backbone(ModelPlan(base=str(file)))
    assert "say model.config, a diffusers folder of the same family" in str(caught.value.next_step)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_too_little_memory_is_no_fault_of_the_files(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(load, "_from_folder", full)
    with pytest.raises(type(error)):
        load_backbone(ModelPlan(base="embedded"))
    with pytest.raises(type(error)):
        load.merge_lora(SimpleNamespace(load_lora_weights=full), "style.safetensors", 1.0)


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        (CONV_IN, (8, 9, 3, 3), "reads 9 channels and answers with 4: an inpaint"),
        (CONV_IN, (8, 8, 3, 3), "reads 8 channels and answers with 4: an inpaint"),
        ("conditioner.embedders.0.model.ln_final.weight", (8,), "is a refiner of SDXL"),
        (
            *("cond_stage_model.model.ln_final.weight", (8,)),
            r"2\.x, whose files do not say whether .*: model\.config must be given",
        ),
        (
            "double_blocks.0.img_attn.proj.weight",
            (8, 8),
            r"is of FLUX; single files are read of SD 1",
        ),
        (
            *("model.diffusion_model.double_blocks.0.img_attn.proj.weight", (8, 8)),
            "is of FLUX; single files are read of SD 1",
        ),
        (
            *("model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight", (8, 8)),
            "is of Stable Diffusion 3; single files are read of SD 1",
        ),
        ("joint_blocks.0.x_block.attn.proj.weight", (8, 8), "is of Stable Diffusion 3; single"),
        ("v_pred", (0,), r"predicts velocities .*: model\.config must be given"),
        ("edm_mean", (1, 4, 1, 1), r"are those of EDM .*no single file is read"),
        ("edm_vpred.sigma_max", (), r"are those of EDM .*no single file is read"),
    ],
)
def test_files_of_other_models_are_refused(
    tmp_path: Path, key: str, shape: tuple[int, ...], said: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({key: torch.zeros(shape)}, file)
    with pytest.raises(UsageError, match=said) as caught:
        load_backbone(ModelPlan(base=str(file)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("channels", "said"),
    [(9, "is an inpainting model: its denoiser reads 9"), (8, "is an editing model"), (5, "is no")],
)
def test_folders_of_other_models_are_refused(tmp_path: Path, channels: int, said: str) -> None:
    pipeline = tiny_pipeline(tmp_path / "words")
    config = {**fresh_unet().config, "in_channels": channels}
    pipeline.unet = perturb(diffusers.UNet2DConditionModel.from_config(config))
    pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match=said):
        load_backbone(ModelPlan(base=str(tmp_path / "model")))


def test_other_pipelines_are_refused_by_name(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    changed = json.loads(index.read_text()) | {"_class_name": "StableDiffusionInpaintPipeline"}
    index.write_text(json.dumps(changed))
    said = "is a StableDiffusionInpaintPipeline; supported are StableDiffusionPipeline, Stable"
    with pytest.raises(UsageError, match=said):
        load_backbone(ModelPlan(base=str(tmp_path / "model")))


def test_a_unet_that_is_told_the_guidance_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "words")
    config = {**fresh_unet().config, "time_cond_proj_dim": 8, "_use_default_values": []}
    pipeline.unet = perturb(diffusers.UNet2DConditionModel.from_config(config))
    pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="is told the guidance scale"):
        load_backbone(ModelPlan(base=str(tmp_path / "model")))


def test_other_predictions_are_refused(tmp_path: Path) -> None:
    pipeline = tiny_v_pipeline(tmp_path / "words")
    pipeline.scheduler.register_to_config(prediction_type="sample")
    pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="prediction_type 'sample'; supported are epsilon, v_pre"):
        load_backbone(ModelPlan(base=str(tmp_path / "model")))


def write_lora(pipeline: Any, file: Path) -> dict[str, Tensor]:
    """A LoRA of the UNet's keys and values as diffusers saves it."""
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_k", "to_v"]))
    state: dict[str, Tensor] = {}
    for number, (name, value) in enumerate(sorted(pipeline.unet.named_parameters())):
        if "lora_" in name:
            generator = torch.Generator().manual_seed(number)
            key = "unet." + name.replace(".default.", ".")
            state[key] = 0.2 * torch.randn(value.shape, generator=generator)
    save_file(state, file)
    return state


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("make", [tiny_pipeline, tiny_xl_pipeline])
def test_a_lora_is_merged_for_good(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "words").save_pretrained(tmp_path / "model")
    file = tmp_path / "style.safetensors"
    factors = write_lora(make(tmp_path / "words"), file)
    plain = load_backbone(ModelPlan(base=str(tmp_path / "model")))
    merged, half = (
        load_backbone(ModelPlan(base=str(tmp_path / "model"), lora=str(file), lora_scale=scale))
        for scale in (1.0, 0.5)
    )
    before = plain.denoiser.state_dict()
    for found, scale in ((merged, 1.0), (half, 0.5)):
        after = found.denoiser.state_dict()
        assert after.keys() == before.keys()  # nothing is left to unload
        for name, value in after.items():
            stem = f"unet.{name.removesuffix('.weight')}"
            expected = before[name]
            if f"{stem}.lora_A.weight" in factors:
                b, a = factors[f"{stem}.lora_B.weight"], factors[f"{stem}.lora_A.weight"]
                expected = expected + scale * b @ a
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert len({unet_sha256(m.denoiser) for m in (plain, merged, half)}) == 3
    assert (picture(merged) - picture(plain)).abs().max() > 0


def test_a_lora_of_another_model_is_told(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "words").save_pretrained(tmp_path / "model")
    file = tmp_path / "other.safetensors"
    factors = write_lora(tiny_pipeline(tmp_path / "words"), file)
    plan = ModelPlan(base=str(tmp_path / "model"), lora=str(file))
    save_file({k.replace("unet.", "unet.other."): v for k, v in factors.items()}, file)
    with pytest.raises((Inconclusive, UsageError), match=r"model\.lora"):
        load_backbone(plan)
    file.write_bytes(b"garbage")
    with pytest.raises(Inconclusive, match="cannot be merged"):
        load_backbone(plan)


def test_a_lora_needs_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    tiny_pipeline(tmp_path / "words").save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="needs peft") as caught:
        load_backbone(ModelPlan(base=str(tmp_path / "model"), lora="style.safetensors"))
    assert caught.value.next_step == "pip install 'safediff[lora]'"


POLICY = """\
version: 1
name: local
model: {model}
concepts: [{{name: axe, erase: [axe]}}]
keep: [owl]
prompts: {{templates: ["{{text}}, {{style}} style"], values: {{style: [noto, fluent]}}}}
verify:
  erasure: {{max_rate: 0.9, num_prompts: 2}}
  retention: [{{name: ordinary, min_ratio: 0.15, num_prompts: 2, texts: [crown, key]}}]
  judge: {{min_specificity: 0.2}}
"""


def plan_of(folder: Path, model: str) -> ModelPlan:
    (folder / "policy.yaml").write_text(POLICY.format(model=model), encoding="utf-8")
    return load_plan(folder / "policy.yaml").model


def test_a_policy_names_them_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "model_index.json").write_text("{}")
    for name in ("model.safetensors", "style.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / name)
    plain = plan_of(tmp_path, "{base: ./model.safetensors}")
    text = (
        "{base: ./model.safetensors, config: config, scheduler: euler, "
        "lora: {path: style.safetensors, scale: 0.8}}"
    )
    found = plan_of(tmp_path, text)
    assert found.scheduler == "euler"
    assert (found.lora, found.lora_scale) == (str(tmp_path / "style.safetensors"), 0.8)
    assert found.config == str(tmp_path / "config")
    # a policy that says nothing of them resolves to the same plan as before there were such keys
    stored = load_plan(tmp_path / "policy.yaml").to_json()["model"]
    assert {"scheduler", "config", "lora", "lora_scale"} <= stored.keys()
    assert ModelPlan(**stored) == found
    plan_of(tmp_path, "{base: ./model.safetensors}")
    stored = load_plan(tmp_path / "policy.yaml").to_json()["model"]
    assert stored.keys() == {"base", "revision", "dtype"}
    assert ModelPlan(**stored) == plain


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{base: ./model.safetensors, config: nowhere}", "has no model_index.json"),
        ("{base: embedded, config: .}", "only a single-file checkpoint"),
        ("{base: embedded, lora: {path: style.pt}}", "is no .safetensors file"),
        ("{base: embedded, lora: {path: style.safetensors}}", "no such file"),
        ("{base: embedded, scheduler: fast}", "scheduler"),
    ],
)
def test_what_is_wrong_is_said_before_anything_loads(tmp_path: Path, model: str, said: str) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(PolicyError) as caught:
        plan_of(tmp_path, model)
    assert said in str(caught.value)


PAGE = Path(__file__).parents[1] / "docs" / "stable-diffusion.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_what_the_page_says_is_a_policy(tmp_path: Path, block: str) -> None:
    for folder in ("stable-diffusion-v1-5", "sdxl-config"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model_index.json").write_text("{}")
    for name in ("sd_xl_base.safetensors", "style.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / name)
    block = block.replace("/models/sd15", "stable-diffusion-v1-5")  # where the page's reader has it
    policy, said = yaml.safe_load(POLICY.format(model="{base: embedded}")), yaml.safe_load(block)
    for key, value in said.items():
        policy[key] = {**policy.get(key, {}), **value}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    plan = load_plan(tmp_path / "policy.yaml")
    params = resolve(plan.erase.method, plan.erase.preset, plan.erase.options)
    if "erase" in said:
        assert isinstance(params, DistilParams)
        assert (params.rollout_scheduler, params.loss_timestep) == ("model", "step")
    else:
        assert Path(plan.model.base).exists()
