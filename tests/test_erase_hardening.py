"""Closing the way back: which rows change, into what, and what it does to training."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from safediff.erase.closed_form.attack import closed_form_attack
from safediff.erase.hardening import harden
from safediff.erase.methods import resolve
from safediff.erase.params import DistilParams
from safediff.erase.texts import Batch
from safediff.errors import UsageError
from safediff.models.backbone import Condition

PARAMS = DistilParams(way_back_share=0.5, way_back_reg=0.2)


def matrices(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(6, 4, generator=generator) for name in ("k", "v")}


def batch_of(num_erase: int, num_keep: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = Condition(torch.randn(num_erase + num_keep, 3, 4, generator=generator))
    null = Condition(torch.zeros(num_erase, 3, 4))
    return Batch(rows, rows, null, num_erase)


def test_the_share_of_the_erased_rows_becomes_the_way_back() -> None:
    batch, edited, original = batch_of(6, 2), matrices(1), matrices(2)
    found = harden(batch, edited, original, PARAMS, torch.Generator().manual_seed(3))
    changed = (found.c_s.hidden != batch.c_s.hidden).flatten(1).any(1)
    assert changed.sum() == 3
    assert not changed[6:].any()  # kept texts stay
    expected = closed_form_attack(edited, original, batch.c_s.hidden, 0.2)
    torch.testing.assert_close(found.c_s.hidden[changed], expected[changed])
    assert found.c_p is batch.c_p  # the rollout still asks in words
    assert torch.equal(batch.c_s.hidden, batch.c_p.hidden)  # the bank's own rows are not written to


def test_other_rows_are_chosen_from_rollout_to_rollout() -> None:
    batch, edited, original = batch_of(6, 0), matrices(1), matrices(2)
    generator = torch.Generator().manual_seed(0)
    chosen = set()
    for _ in range(8):
        found = harden(batch, edited, original, PARAMS, generator)
        chosen.add(tuple((found.c_s.hidden != batch.c_s.hidden).flatten(1).any(1).tolist()))
    assert len(chosen) > 1


def test_an_unchanged_model_has_no_way_back_to_close() -> None:
    batch, original = batch_of(4, 0), matrices(2)
    params = replace(PARAMS, way_back_reg=1e-9)
    found = harden(batch, original, original, params, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.c_s.hidden, batch.c_s.hidden)


def test_refused_where_keys_and_values_are_not_trained() -> None:
    with pytest.raises(UsageError, match="way_back_share: leads back through keys and values"):
        resolve("esd-u", "eta-3", {"way_back_share": 0.5})
