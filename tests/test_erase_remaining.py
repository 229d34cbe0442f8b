"""What is left of each concept, measured on the way, and concepts drawn by it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from erase_examples import CONCEPTS, KEEP, SMALL, frozen_backbone, small_trainer

from safediff.erase.methods import resolve
from safediff.erase.params import DistilParams, asks_concept, check_together
from safediff.erase.remaining import PACE, choose, presence, update
from safediff.erase.texts import TextBank
from safediff.erase.trainer import StepInfo
from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.patch import state_sha256

BY_LEFT = replace(SMALL, order="remaining", target="frozen", eta=0.5)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


def ignore(info: StepInfo) -> None:
    pass


def test_presence_is_where_the_answer_lies_between_the_originals() -> None:
    g = torch.Generator().manual_seed(0)
    concept, instead, across = torch.randn(3, 4, 2, 3, 3, generator=g).unbind()
    d = concept - instead
    shift = torch.tensor([1.0, 0.0, -0.5, 0.25])
    # what lies across the direction says nothing of the concept
    flat, side = d.flatten(1), across.flatten(1)
    side = side - (side * flat).sum(1, keepdim=True) / flat.square().sum(1, keepdim=True) * flat
    answer = instead + shift[:, None, None, None] * d + side.view_as(d)
    torch.testing.assert_close(presence(answer, concept, instead), shift)


def test_a_text_that_is_answered_like_its_target_has_nothing_left() -> None:
    same = torch.ones(2, 1, 2, 2)
    assert presence(same + 1, same, same).tolist() == [0.0, 0.0]


def test_the_running_mean_takes_rows_of_one_text_together() -> None:
    left, other = torch.ones(3), torch.ones(3)
    update(left, [0, 2, 0], torch.tensor([0.5, -0.5, 0.1]))
    update(other, [2, 0, 0], torch.tensor([-0.5, 0.1, 0.5]))
    expected = [1 + PACE * (0.3 - 1), 1.0, 1 + PACE * (-0.5 - 1)]
    assert left.tolist() == pytest.approx(expected)
    assert torch.equal(left, other)


def test_more_is_drawn_of_what_is_left() -> None:
    left = torch.tensor([0.0, 0.4, 0.2, -0.3])
    g = torch.Generator().manual_seed(0)
    counts = Counter(unit for _ in range(2000) for unit in choose(left, 1, g).tolist())
    weights = [(max(r, 0) + 0.02) ** 3 for r in left.tolist()]
    for unit, weight in enumerate(weights):
        assert counts[unit] / 2000 == pytest.approx(weight / sum(weights), abs=0.03)
    equal = Counter(u for _ in range(2000) for u in choose(torch.ones(4), 1, g).tolist())
    assert max(equal.values()) - min(equal.values()) < 150


def test_nothing_is_drawn_twice_before_all_were_drawn_once() -> None:
    g = torch.Generator().manual_seed(0)
    left = torch.tensor([1.0, 0.0, 0.0])
    for num, most, least in ((2, 1, 0), (3, 1, 1), (7, 3, 2)):
        counts = Counter(choose(left, num, g).tolist())
        assert sum(counts.values()) == num
        assert max(counts.values()) <= most
        assert min(counts[unit] for unit in range(3)) >= least


def test_a_batch_says_which_texts_its_rows_have(backbone: Backbone) -> None:
    bank = TextBank(backbone, CONCEPTS, KEEP)
    params = replace(BY_LEFT, batch_size=2)
    left = torch.tensor([0.0, 1.0, 1.0])
    for seed in range(20):
        batch = bank.draw(seed, params, torch.Generator().manual_seed(seed), left)
        assert set(batch.units) == {1, 2}
        rows = bank.each.rows(torch.tensor(batch.units))
        assert torch.equal(batch.c_s.hidden, rows.hidden)


def test_at_the_first_step_everything_is_there(backbone: Backbone) -> None:
    trainer = small_trainer(backbone, replace(BY_LEFT, num_steps=1, batch_size=3))
    trainer.run(ignore)
    # one answer of each text, the untouched model's: r = 1
    torch.testing.assert_close(trainer.left, torch.ones(3), rtol=0, atol=1e-4)


def test_what_is_left_falls_as_a_concept_goes(backbone: Backbone) -> None:
    longer = replace(BY_LEFT, num_steps=40, batch_size=3, learning_rate=1e-2)
    trainer = small_trainer(backbone, longer)
    trainer.run(ignore)
    assert trainer.left.max() < 0.7
    still = small_trainer(backbone, replace(longer, learning_rate=0.0, weight_decay=0.0))
    still.run(ignore)
    torch.testing.assert_close(still.left, torch.ones(3), rtol=0, atol=1e-4)


def test_it_ends_when_little_enough_is_left(backbone: Backbone, tmp_path: Path) -> None:
    params = replace(SMALL, target="frozen", num_steps=40, batch_size=3, learning_rate=1e-2)
    params = replace(params, stop_at=0.8)
    steps: list[StepInfo] = []
    trainer = small_trainer(backbone, params)
    trainer.run(steps.append, tmp_path / "checkpoint.safetensors")
    left = [info.most_left for info in steps if info.most_left is not None]
    assert len(left) == len(steps) == trainer.progress.step < 40
    assert left[-1] == float(trainer.left.max()) < 0.8 <= min(left[:-1])
    assert steps[-1].null_drift is not None
    again = small_trainer(backbone, params)
    again.restore(tmp_path / "checkpoint.safetensors")
    more: list[StepInfo] = []
    again.run(more.append)
    assert more == []
    pushed = small_trainer(backbone, replace(params, stop_at=0.0, eta=0.5))
    pushed.left.fill_(-0.1)
    assert not pushed.finished
    unmeasured: list[StepInfo] = []
    small_trainer(backbone, SMALL).run(unmeasured.append)
    assert {info.most_left for info in unmeasured} == {None}


def test_an_interrupted_run_goes_on_from_what_is_left(backbone: Backbone, tmp_path: Path) -> None:
    whole = small_trainer(backbone, BY_LEFT)
    expected = state_sha256(whole.run(ignore).teacher.tensors)

    class Killed(Exception):
        pass

    def kill(info: StepInfo) -> None:
        if info.step == 2:
            raise Killed

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        small_trainer(backbone, BY_LEFT).run(kill, path)
    again = small_trainer(backbone, BY_LEFT)
    again.restore(path)
    assert not torch.equal(again.left, torch.ones(3))
    assert state_sha256(again.run(ignore, path).teacher.tensors) == expected
    assert torch.equal(again.left, whole.left)
    forgetful = small_trainer(backbone, BY_LEFT)
    path.unlink()
    with pytest.raises(Killed):
        small_trainer(backbone, BY_LEFT).run(kill, path)
    forgetful.restore(path)
    forgetful.left.fill_(1.0)
    forgetful.left[0] = 0.0
    assert state_sha256(forgetful.run(ignore, path).teacher.tensors) != expected


def test_asking_for_it_without_a_push_is_paid_for(backbone: Backbone) -> None:
    def passes(params: DistilParams) -> int:
        return small_trainer(backbone, params).run(ignore).num_passes

    plain = replace(SMALL, target="frozen", num_steps=1, num_inference_steps=1)
    measured = replace(plain, order="remaining")
    assert asks_concept(measured)
    assert not asks_concept(plain)
    assert passes(measured) == passes(plain) + SMALL.batch_size


def test_it_needs_the_originals_answers() -> None:
    with pytest.raises(UsageError, match=r"erase.options.order: .*original's answers"):
        check_together(replace(BY_LEFT, target="student", eta=0.0))
    with pytest.raises(UsageError, match=r"erase.options.order"):
        resolve("sdd", "paper", {"order": "remaining"})
    with pytest.raises(UsageError, match=r"erase.options.stop_at: .*original's answers"):
        resolve("sdd", "paper", {"stop_at": 0.1})


def test_it_needs_one_text_at_a_time() -> None:
    for knob, value in (("order", "remaining"), ("stop_at", 0.1)):
        options = {knob: value, "target": "frozen"}
        with pytest.raises(UsageError, match=rf"erase\.options\.{knob}: .* joined") as refused:
            resolve("sdd", "paper", options)
        assert refused.value.next_step == "set loss_text: each"
        resolve("sdd", "paper", {**options, "loss_text": "each"})
