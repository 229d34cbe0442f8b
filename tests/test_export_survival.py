"""An edit larger than the rounding step survives; a smaller one drowns, and that is said."""

import pytest
import torch

from safediff.export.survival import ROUNDINGS, measure_survival


def states(edit_std: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights like those of a UNet, before and after an edit of one matrix of two."""
    generator = torch.Generator().manual_seed(0)
    base = {
        "to_k.weight": 0.03 * torch.randn(128, 128, generator=generator),
        "conv.weight": 0.03 * torch.randn(8, 8, 3, 3, generator=generator),
    }
    edit = edit_std * torch.randn(128, 128, generator=generator)
    return base, {**base, "to_k.weight": base["to_k.weight"] + edit}


@pytest.mark.parametrize(
    ("precision", "edit_std", "survives"),
    [
        ("fp32", 1e-6, True),
        ("fp16", 1e-4, True),
        ("bf16", 1e-5, False),
        ("int8", 1e-3, True),
        ("int8", 1e-5, False),
        ("int4", 1e-4, False),
        ("coarse", 1e-3, False),
    ],
)
def test_what_survives(precision: str, edit_std: float, survives: bool) -> None:
    found = measure_survival(*states(edit_std), precision)
    assert [layer.name for layer in found.layers] == ["to_k.weight"]
    assert found.survives is survives, found.min_cosine
    assert found.to_json()["survives"] is survives


def test_nothing_is_lost_in_full_precision() -> None:
    found = measure_survival(*states(1e-3), "fp32")
    assert found.min_cosine == pytest.approx(1.0)
    assert found.max_noise_ratio == 0.0


def test_an_edit_that_vanishes_counts_as_lost() -> None:
    base = {"to_k.weight": torch.full((4, 4), 0.03)}
    safe = {"to_k.weight": base["to_k.weight"] + 1e-8}
    found = measure_survival(base, safe, "fp16")
    assert found.min_cosine == 0.0
    assert found.max_noise_ratio == pytest.approx(1.0)


def test_convolutions_stay_as_they_are_in_int8() -> None:
    base, _ = states(0.0)
    assert torch.equal(ROUNDINGS["int8"](base["conv.weight"]), base["conv.weight"])
    assert not torch.equal(ROUNDINGS["int8"](base["to_k.weight"]), base["to_k.weight"])
