"""A policy's guard reaches the sampler: for every subject but the base."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_policy import QUICK, small_plan

from safediff.guard.base import Guard
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Draw, Picture, Sampling, sample
from safediff.verify.verification import Verification

GUARD = ("export:", "guard: {name: sld-max}\nexport:")


@pytest.fixture(scope="module")
def base() -> Backbone:
    return load_backbone(ModelPlan(base="embedded"))


@pytest.mark.parametrize(("edits", "guarded"), [((), False), ((GUARD,), True)])
def test_every_subject_but_the_base_is_guarded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: Backbone,
    edits: Sequence[tuple[str, str]],
    guarded: bool,
) -> None:
    seen: list[Guard | None] = []

    def noted(
        backbone: Backbone,
        draws: Sequence[Draw],
        sampling: Sampling,
        on_batch: Callable[[int], None],
        guard: Guard | None,
    ) -> Iterator[list[Picture]]:
        seen.append(guard)
        return sample(backbone, draws, sampling, on_batch, guard)

    monkeypatch.setattr("safediff.verify.album.sample", noted)
    plan = small_plan(tmp_path, *QUICK, *edits)
    with Verification(plan, base, "b" * 64, tmp_path / "out") as verification:
        albums: list[Any] = [verification.base_album]
        albums += [verification.measure(name, base, {"unet": "s"})[1] for name in ("a", "b")]
    batches = len(seen) // len(albums)
    assert seen[:batches] == [None] * batches
    for guard in seen[batches:]:
        assert (guard is not None) == guarded
        if guard is not None:
            assert (guard.name, guard.texts) == ("sld-max", ("bomb", "axe"))
    # The weights are the same, so only the guard can make a difference.
    images = [album.of(album.draws) for album in albums]
    assert torch.equal(images[0], images[1]) == (not guarded)
    assert torch.equal(images[1], images[2])
