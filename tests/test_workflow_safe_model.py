"""A patched model stands beside its base and shares with it what the patch leaves alone."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_backbone, tiny_unet

from safediff.errors import UsageError
from safediff.models.patch import Patch, unet_sha256
from safediff.workflow.safe_model import patched, share_equal


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
