"""Low-rank adapters: what training makes is what diffusers loads."""

from dataclasses import replace
from pathlib import Path

import torch
from erase_examples import SMALL, frozen_backbone, small_trainer
from safetensors.torch import load_file
from tiny import tiny_pipeline

from safediff.models.adapter import save_adapter
from safediff.models.patch import apply_patch

RANKED = replace(SMALL, lora_rank=2, learning_rate=1e-2)


def test_diffusers_loads_the_adapter(tmp_path: Path) -> None:
    backbone = frozen_backbone(tmp_path)
    erased = small_trainer(backbone, RANKED).run(lambda info: None)
    assert erased.adapter is not None
    save_adapter(erased.adapter, tmp_path / "adapter.safetensors")
    pipeline = tiny_pipeline(tmp_path)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    c = backbone.encode(["axe"]).hidden

    def answer() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = pipeline.unet(z, 500, encoder_hidden_states=c).sample
        return found

    pipeline.unet.load_state_dict(backbone.denoiser.state_dict())
    plain = answer()
    pipeline.load_lora_weights(str(tmp_path), weight_name="adapter.safetensors")
    adapted = answer()
    pipeline.unload_lora_weights()
    remove = apply_patch(pipeline.unet, erased.teacher)
    torch.testing.assert_close(adapted, answer(), atol=1e-5, rtol=0)
    assert (adapted - plain).abs().max() > 1e-3
    remove()
    assert torch.equal(answer(), plain)


def test_the_update_has_the_rank(tmp_path: Path) -> None:
    backbone = frozen_backbone(tmp_path)
    params = replace(RANKED, trainable="kv", null_space=0.1)
    erased = small_trainer(backbone, params).run(lambda info: None)
    base = backbone.denoiser.state_dict()
    for patch in (erased.teacher, erased.student):
        for name, w in patch.tensors.items():
            assert int(torch.linalg.matrix_rank((w - base[name]).double(), rtol=1e-4)) == 2
    assert erased.adapter is not None
    for name, (a, b) in erased.adapter.items():
        torch.testing.assert_close(base[name] + b @ a, erased.teacher.tensors[name])
    whole = small_trainer(backbone, SMALL).run(lambda info: None)
    assert whole.adapter is None
    updates = [w - base[n] for n, w in whole.student.tensors.items() if w.ndim == 2]
    assert max(int(torch.linalg.matrix_rank(update)) for update in updates) > 2


def test_file_holds_both_factors_of_every_tensor(tmp_path: Path) -> None:
    a, b = torch.randn(2, 8), torch.randn(6, 2)
    save_adapter({"x.attn2.to_k.weight": (a, b)}, tmp_path / "adapter.safetensors")
    found = load_file(tmp_path / "adapter.safetensors")
    assert found.keys() == {"unet.x.attn2.to_k.lora_A.weight", "unet.x.attn2.to_k.lora_B.weight"}
    assert torch.equal(found["unet.x.attn2.to_k.lora_A.weight"], a)
