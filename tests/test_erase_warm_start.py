"""The closed-form start of a distillation, and how it chooses kept texts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from erase_examples import KEEP, SMALL, concept, frozen_backbone, small_trainer
from transformer_examples import example

from safediff.erase.closed_form.kv import Pairs, guided_pairs
from safediff.erase.null_space import relative_change, second_moment, soft_projector
from safediff.erase.params import DistilParams, check_together
from safediff.erase.warm_start import closed_form_start, influence
from safediff.errors import UsageError
from safediff.models.backbone import Backbone

STARTED = replace(
    SMALL,
    trainable="kv",
    null_space=0.1,
    warm_start=0.5,
    keep_share=0.5,
    loss_text="phrasings",
    rollout_text="phrasings",
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


def random_pairs(num: int, width: int) -> Pairs:
    generator = torch.Generator().manual_seed(3)
    c = torch.randn(num, width, generator=generator, dtype=torch.float64)
    return Pairs(c, c + torch.randn(num, width, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_start_is_the_least_squares_solution(projected: bool, strength: float) -> None:
    """Against numpy's solution of the stacked system, in float64."""
    pairs, d = random_pairs(40, 6), 6
    w = torch.randn(5, d, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    p = torch.eye(d)
    if projected:
        kept = torch.randn(30, d, generator=torch.Generator().manual_seed(5))
        p = soft_projector(second_moment(kept), 0.05)
    c, c_t, p_64 = pairs.erased.numpy(), pairs.guides.numpy(), p.double().numpy()
    ridge = np.trace(p_64 @ c.T @ c @ p_64) / len(c) / d / strength
    rows = np.vstack([c @ p_64 / np.sqrt(len(c)), np.sqrt(ridge) * np.eye(d)])
    aims = np.vstack([(c_t - c) @ w.numpy().T / np.sqrt(len(c)), np.zeros((d, 5))])
    expected = np.linalg.lstsq(rows, aims, rcond=None)[0].T
    found = closed_form_start({"k": w}, pairs, p if projected else None, strength)["k"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).max() > 0.01


def test_a_stronger_start_goes_further() -> None:
    pairs = random_pairs(40, 6)
    w = {"k": torch.eye(6, dtype=torch.float64)}
    sizes = [closed_form_start(w, pairs, None, a)["k"].norm().item() for a in (1e-6, 0.1, 1.0, 1e6)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 1e-4
    exact = torch.linalg.lstsq(pairs.erased, pairs.guides - pairs.erased).solution.T
    torch.testing.assert_close(closed_form_start(w, pairs, None, 1e9)["k"], exact.float())


def test_every_phrasing_is_paired_with_what_is_drawn_instead(backbone: Backbone) -> None:
    spoken = [("axe", ""), ("axe in oil", "in oil"), ("bomb", "")]
    pairs = guided_pairs(backbone, spoken)
    order = ["axe", "bomb", "axe in oil"]  # by what is drawn instead
    window = backbone.num_tokens
    hidden = backbone.encode(order).hidden.double()
    torch.testing.assert_close(pairs.erased.view(3, window, -1), hidden)
    instead = backbone.encode(["", "", "in oil"]).hidden.double()
    torch.testing.assert_close(pairs.guides.view(3, window, -1), instead)


def test_training_begins_at_the_start(backbone: Backbone) -> None:
    trainer = small_trainer(backbone, STARTED)
    base = {name: w.float() for name, w in trainer.student.base.items()}
    spoken = [pair for bank in trainer.texts.spoken for pair in bank]
    start = closed_form_start(
        base, guided_pairs(backbone, spoken), trainer.student.projector, STARTED.warm_start
    )
    projector = trainer.student.projector
    assert projector is not None
    found = trainer.student.weights()
    for name, w in base.items():
        torch.testing.assert_close(found[name], w + start[name] @ projector)
    for mean, value in zip(trainer.teacher, trainer.student.values, strict=True):
        assert torch.equal(mean, value)
    kept = relative_change(base, found, trainer.texts.kept_tokens())
    erased = relative_change(base, found, trainer.texts.each)
    assert erased.mean() > 1.5 * kept.mean()


def test_without_a_projector_the_matrices_themselves_start_there(backbone: Backbone) -> None:
    params = replace(STARTED, null_space=0.0)
    trainer = small_trainer(backbone, params)
    base = {name: w.float() for name, w in trainer.student.base.items()}
    spoken = [pair for bank in trainer.texts.spoken for pair in bank]
    start = closed_form_start(base, guided_pairs(backbone, spoken), None, params.warm_start)
    found = trainer.student.weights()
    for name, w in base.items():
        torch.testing.assert_close(found[name], w + start[name])


def test_an_adapter_starts_at_the_nearest_of_its_rank(backbone: Backbone) -> None:
    whole = small_trainer(backbone, STARTED)
    low = small_trainer(backbone, replace(STARTED, lora_rank=2))
    (name, value), *_ = zip(whole.student.names, whole.student.values, strict=True)
    u, s, v = torch.linalg.svd(value.detach())
    nearest = (u[:, :2] * s[:2]) @ v[:2]
    b, a = low.student.values[1].detach(), low.student.values[0].detach()
    assert name == low.student.names[0]
    torch.testing.assert_close(b @ a, nearest)
    assert s[2] > 1e-3 * s[0]  # there was something to leave out


def test_kept_texts_that_the_start_changes_are_drawn_more_often(backbone: Backbone) -> None:
    keep = (*KEEP, "axe handle")
    trainer = small_trainer(backbone, replace(STARTED, keep_sampling="influence"), keep=keep)
    weights = trainer.texts.keep_weights
    assert weights is not None
    base = {name: w.float() for name, w in trainer.student.base.items()}
    found = trainer.student.weights()
    changes = relative_change(base, found, trainer.texts.encode(keep)).detach()
    torch.testing.assert_close(weights, (changes / changes.mean()) ** 3)
    assert weights.argmax() == 3
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(keep))
    for index in range(400):
        batch = trainer.texts.draw(index, trainer.params, generator)
        for row in batch.c_s.hidden[batch.num_erase :]:
            same = [torch.equal(row, own) for own in trainer.texts.encode(keep).hidden]
            counts[same.index(True)] += 1
    torch.testing.assert_close(counts / 400, weights / weights.sum(), atol=0.08, rtol=0)


def test_uniform_sampling_draws_as_without_a_start(backbone: Backbone) -> None:
    started = small_trainer(backbone, STARTED)
    plain = small_trainer(backbone, replace(STARTED, warm_start=0.0))
    for index in range(3):
        rows = [
            t.texts.draw(index, t.params, torch.Generator().manual_seed(index)).c_s.hidden
            for t in (started, plain)
        ]
        assert torch.equal(*rows)


def test_influence_is_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    base = {"k": torch.randn(4, 6, generator=generator)}
    started = {"k": base["k"] + torch.randn(4, 6, generator=generator)}
    kept = torch.randn(5, 3, 6, generator=generator)
    at_once = influence(base, started, kept)
    monkeypatch.setattr("safediff.erase.warm_start._CHUNK", 2)
    torch.testing.assert_close(influence(base, started, kept), at_once)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (DistilParams(warm_start=0.3), "solves for keys and values only"),
        (DistilParams(keep_sampling="influence"), "that of the warm start"),
    ],
)
def test_what_does_not_fit_is_refused(params: DistilParams, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_together(params)


@pytest.mark.parametrize("variant", ["sd3", "flux dev"])
def test_joint_attention_is_refused(variant: str, tmp_path: Path) -> None:
    backbone = example(variant, tmp_path).backbone
    params = replace(STARTED, null_space=0.0)
    with pytest.raises(UsageError, match="which no closed form knows"):
        small_trainer(backbone, params, concepts=(concept("axe"),), keep=("owl",))


def test_a_model_in_half_precision_starts_in_float32(tmp_path: Path) -> None:
    half = frozen_backbone(tmp_path)
    half.denoiser.to(torch.bfloat16)
    half.text_encoder.to(torch.bfloat16)
    trainer = small_trainer(half, replace(STARTED, num_steps=1, keep_sampling="influence"))
    assert {value.dtype for value in trainer.student.values} == {torch.float32}
    assert trainer.texts.keep_weights is not None
    assert trainer.texts.keep_weights.dtype == torch.float32
    assert len(trainer.run(lambda info: None).teacher.tensors) > 0
