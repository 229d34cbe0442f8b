"""Low-rank adapters: what training makes is what diffusers loads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from erase_examples import SMALL, frozen_backbone, small_trainer
from safetensors.torch import load_file
from tiny import tiny_pipeline, tiny_v_pipeline, tiny_xl_pipeline

from safediff.models.adapter import save_adapter
from safediff.models.load import as_backbone
from safediff.models.patch import apply_patch

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RANKED = replace(SMALL, lora_rank=2, learning_rate=1e-2)


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_v_pipeline, tiny_xl_pipeline])
def test_diffusers_loads_the_adapter(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """The pictures of the family's own pipeline are those of the erased model."""
    pipeline = make(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    backbone = as_backbone("tiny", pipeline)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    erased = small_trainer(backbone, replace(RANKED, learning_rate=0.1)).run(lambda info: None)
    assert erased.adapter is not None
    save_adapter(erased.adapter, tmp_path / "adapter.safetensors")

    def drawn() -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        options = {"num_inference_steps": 3, "generator": generator, "output_type": "latent"}
        found: torch.Tensor = pipeline("axe", **options).images
        return found

    plain = drawn()
    pipeline.load_lora_weights(str(tmp_path), weight_name="adapter.safetensors")
    adapted = drawn()
    pipeline.unload_lora_weights()
    assert torch.equal(drawn(), plain)
    remove = apply_patch(pipeline.unet, erased.teacher)
    torch.testing.assert_close(adapted, drawn(), atol=1e-4, rtol=0)
    assert (adapted - plain).abs().max() > 2e-3
    remove()
    assert torch.equal(drawn(), plain)


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
