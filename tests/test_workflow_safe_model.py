"""A patched model stands beside its base and shares with it what the patch leaves alone."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_backbone, tiny_pipeline, tiny_unet, tiny_vae
from torch import nn

from safediff.errors import UsageError
from safediff.models.load import load_backbone
from safediff.models.patch import Patch, save_patch, unet_sha256
from safediff.policy.plan import ModelPlan
from safediff.workflow import subject
from safediff.workflow.safe_model import patched, share_equal, share_parts
from safediff.workflow.subject import base_beside, open_subject


def test_only_what_is_patched_takes_memory_of_its_own(tmp_path: Path) -> None:
    base = tiny_backbone(tmp_path)
    before = {name: w.clone() for name, w in base.denoiser.state_dict().items()}
    name = next(name for name in before if name.endswith("attn2.to_k.weight"))
    sha256 = unet_sha256(base.denoiser)
    safe = patched(base, Patch(tensors={name: before[name] + 1}, base_sha256=sha256))
    assert safe.denoiser is not base.denoiser
    own = [
        key
        for key, w in safe.denoiser.state_dict().items()
        if w.data_ptr() != base.denoiser.state_dict()[key].data_ptr()
    ]
    assert own == [name]
    for key, w in base.denoiser.state_dict().items():
        assert torch.equal(w, before[key])
    assert torch.equal(safe.denoiser.state_dict()[name], before[name] + 1)
    z, t, text = torch.randn(1, 4, 8, 8), torch.tensor(500), torch.randn(1, 77, 16)
    answers = [model.denoiser(z, t, text, return_dict=False)[0] for model in (base, safe)]
    assert not torch.allclose(*answers)


def test_a_patch_of_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belongs to base"):
        patched(tiny_backbone(tmp_path), Patch(tensors={}, base_sha256="0" * 64))


def test_networks_that_were_loaded_apart_share_what_is_equal() -> None:
    safe, base = tiny_unet(), tiny_unet()
    name = next(name for name in base.state_dict() if name.endswith("attn2.to_k.weight"))
    with torch.no_grad():
        base.get_parameter(name).add_(1)
    before = {key: w.clone() for key, w in base.state_dict().items()}
    share_equal(safe, base)
    own = [
        key
        for key, w in safe.state_dict().items()
        if w.data_ptr() != base.state_dict()[key].data_ptr()
    ]
    assert own == [name]
    assert all(torch.equal(w, before[key]) for key, w in base.state_dict().items())


def pointers(network: nn.Module) -> dict[str, int]:
    return {name: w.data_ptr() for name, w in network.named_parameters()}


def test_parts_of_another_architecture_are_left_alone(tmp_path: Path) -> None:
    model, other = tiny_backbone(tmp_path), tiny_backbone(tmp_path)
    smaller: Any = tiny_vae(num_halvings=2)
    object.__setattr__(other, "vae", smaller)
    before = pointers(smaller)
    share_parts(model, other)
    assert pointers(other.vae) == before
    assert pointers(other.text_encoder) == pointers(model.text_encoder)
    assert pointers(other.denoiser) == pointers(model.denoiser)


def test_beside_a_run_its_base_is_not_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, loaded = ModelPlan(base=str(tmp_path / "model")), list[ModelPlan]()

    def load(plan: ModelPlan) -> Any:
        loaded.append(plan)
        return load_backbone(plan)

    pipeline, run = tiny_pipeline(tmp_path / "words"), tmp_path / "run"
    pipeline.save_pretrained(plan.base)
    run.mkdir()
    (run / "plan.json").write_text(json.dumps({"plan": {"model": asdict(plan)}}))
    patch = Patch(tensors={}, base_sha256=unet_sha256(pipeline.unet))
    save_patch(patch, run / "patch.safetensors")
    monkeypatch.setattr(subject, "load_backbone", load)
    opened = open_subject(str(run))
    assert base_beside(opened, plan) is opened.models["base"]
    assert loaded == [plan]
    other = ModelPlan(base=plan.base, scheduler="euler")
    assert type(base_beside(opened, other).scheduler).__name__ == "EulerDiscreteScheduler"
    assert loaded == [plan, other]


def test_beside_a_model_only_what_differs_takes_memory(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "base")
    name, *_ = (n for n, _ in pipeline.unet.named_parameters() if n.endswith("attn2.to_k.weight"))
    with torch.no_grad():
        pipeline.unet.get_parameter(name).add_(1)
    pipeline.save_pretrained(tmp_path / "changed")
    opened = open_subject(str(tmp_path / "changed"))
    base = base_beside(opened, ModelPlan(base=str(tmp_path / "base")))
    (changed,) = opened.models.values()
    for part in ("vae", "text_encoder"):
        assert pointers(getattr(base, part)) == pointers(getattr(changed, part))
    before, after = pointers(base.denoiser), pointers(changed.denoiser)
    assert [n for n in before if before[n] != after[n]] == [name]
