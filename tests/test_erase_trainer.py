"""The trainer of SDD and ESD: knobs, presets, resuming, and what it refuses."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import torch
from erase_examples import CONCEPTS, KEEP, SMALL, concept, frozen_backbone, small_trainer
from safetensors import safe_open
from safetensors.torch import save_file
from small_denoiser import small_backbone

from safediff.erase import trainer as trainer_module
from safediff.erase.checkpoint import Progress
from safediff.erase.methods import resolve
from safediff.erase.params import PRESETS, WITHOUT_EFFECT, DistilParams
from safediff.erase.texts import TextBank
from safediff.erase.trainer import DistilTrainer, StepInfo, learning_rate, rollout_seed
from safediff.errors import Inconclusive, UsageError
from safediff.models.backbone import Backbone, Condition
from safediff.models.patch import save_patch, state_sha256, unet_sha256
from safediff.sample.shards import Shards

HINTS = get_type_hints(DistilParams)

# Another value than SMALL's; Literal knobs are tried in all their values.
CHANGED: dict[str, Any] = {
    "num_steps": 5,
    "stop_at": 0.9,
    "learning_rate": 2e-3,
    "weight_decay": 0.5,
    "beta1": 0.5,
    "beta2": 0.9,
    "epsilon": 1e-3,
    "max_grad_norm": 1e-4,
    "ema_decay": 0.5,
    "ema_warmup": True,
    "guidance_scale": 7.5,
    "num_inference_steps": 10,
    "batch_size": 3,
    "reuse": 2,
    "eta": 1.0,
    "anchor_weight": 1.0,
    "keep_share": 0.5,
    "keep_weight": 2.0,
    "null_space": 0.1,
    "lora_rank": 2,
    "warm_start": 0.5,
    "way_back_share": 0.9,
    "way_back_reg": 10.0,
}
# What must be on for a knob to have something to act on.
NEEDS: dict[str, dict[str, Any]] = {
    "stop_at": {
        **{"target": "frozen", "trainable": "kv", "batch_size": 4},
        **{"num_steps": 40, "learning_rate": 1e-2},
    },
    "eta": {"target": "frozen"},
    "order": {"target": "frozen"},
    "keep_weight": {"keep_share": 0.5},
    "null_space": {"trainable": "kv"},
    "warm_start": {"trainable": "kv"},
    "keep_sampling": {"trainable": "kv", "warm_start": 0.5, "keep_share": 0.5},
    "way_back_reg": {"way_back_share": 0.9},
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """For tests that train often and ask whether anything changed, not what."""
    return small_backbone(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def outcomes() -> dict[DistilParams, tuple[str, str]]:
    """What is known already, by settings."""
    return {}


def ignore(info: StepInfo) -> None:
    pass


def outcome(backbone: Backbone, params: DistilParams, **options: Any) -> tuple[str, str]:
    """Hashes of both patches of a whole run."""
    erased = small_trainer(backbone, params, **options).run(ignore)
    assert erased.student is not None
    return state_sha256(erased.teacher.tensors), state_sha256(erased.student.tensors)


def cases() -> list[tuple[str, Any]]:
    found = []
    for field in fields(DistilParams):
        if field.name in (*WITHOUT_EFFECT, "rollout_scheduler"):  # test_models_schedulers.py
            continue
        if get_origin(HINTS[field.name]) is None:
            found.append((field.name, CHANGED[field.name]))
        else:
            now = getattr(SMALL, field.name)
            found += [(field.name, value) for value in get_args(HINTS[field.name]) if value != now]
    return found


@pytest.mark.parametrize(("knob", "value"), cases())
def test_every_knob_changes_the_result(
    small: Backbone, outcomes: dict[DistilParams, tuple[str, str]], knob: str, value: Any
) -> None:
    before = replace(SMALL, **NEEDS.get(knob, {}))
    if before not in outcomes:
        outcomes[before] = outcome(small, before)
    assert outcome(small, replace(before, **{knob: value})) != outcomes[before]


def test_equal_settings_give_equal_results(small: Backbone) -> None:
    once = outcome(small, SMALL)
    assert outcome(small, replace(SMALL, log_every=1, save_every_s=9.0)) == once
    assert outcome(small, SMALL, seed=8) != once
    assert outcome(small, SMALL, concepts=(concept("axe"), concept("bomb"))) != once


def test_every_seed_of_a_policy_can_be_trained_with(small: Backbone) -> None:
    one = replace(SMALL, num_steps=1)
    seeds = (0, 20251130123456, 2**63 - 1)
    assert len({outcome(small, one, seed=seed) for seed in seeds}) == len(seeds)
    assert rollout_seed(7, 2) == 7_000_023  # as ever


def test_no_environment_divides_the_loss(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def norms() -> list[float]:
        infos: list[StepInfo] = []
        small_trainer(backbone, SMALL).run(infos.append)
        return [info.grad_norm for info in infos]

    expected = norms()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert norms() == expected


COMMON = {
    "learning_rate": 1e-5,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "rate_schedule": "constant",
    "rollout_model": "teacher",
    "eta": 0.0,
    "guidance_scale": 3.0,
    "num_inference_steps": 50,
    "timesteps": "uniform",
    "batch_size": 1,
    "reuse": 1,
    "trainable": "xattn",
    "order": "cyclic",
    "target": "student",
    "anchor_weight": 0.0,
    "keep_share": 0.0,
    "null_space": 0.0,
    "ema_warmup": False,
}
PUBLISHED = {
    "paper": {
        "num_steps": 1300,
        "ema_decay": 0.998,
        "weight_decay": 1e-2,
        "loss_text": "joined",
        "rollout_text": "each",
    },
    "repo": {
        "num_steps": 1500,
        "ema_decay": 0.999,
        "weight_decay": 1e-4,
        "loss_text": "each",
        "rollout_text": "joined",
    },
}


# methods that compare with ESD: eta in its names, concept drawn at random, the student rolls out
ESD = COMMON | {
    "ema_decay": 0.0,
    "rollout_model": "student",
    "loss_text": "each",
    "rollout_text": "each",
    "order": "random",
    "target": "frozen",
}
PUBLISHED_ESD = {
    ("esd-x", "eta-3"): {"num_steps": 1000, "eta": 3.0, "weight_decay": 1e-4},
    ("esd-x", "eta-1"): {"num_steps": 1000, "eta": 1.0, "weight_decay": 0.0},
    ("esd-x", "strict"): {
        "num_steps": 200,
        "eta": 1.0,
        "weight_decay": 0.0,
        "learning_rate": 5e-5,
        "rollout_model": "original",
        "trainable": "kv",
    },
    ("esd-u", "eta-3"): {
        "num_steps": 1000,
        "eta": 3.0,
        "weight_decay": 1e-4,
        "trainable": "noxattn",
    },
    ("esd-u", "eta-1"): {
        "num_steps": 1000,
        "eta": 1.0,
        "weight_decay": 0.0,
        "trainable": "noxattn",
    },
}
EXPECTED = {("sdd", name): COMMON | row for name, row in PUBLISHED.items()} | {
    key: ESD | row for key, row in PUBLISHED_ESD.items()
}


@pytest.mark.parametrize(("method", "preset"), list(EXPECTED))
def test_presets_are_as_published(method: str, preset: str) -> None:
    found = asdict(PRESETS[method][preset])
    expected = EXPECTED[(method, preset)]
    assert {name: found[name] for name in expected} == expected


def test_cosine_rate_falls_to_zero() -> None:
    params = replace(SMALL, num_steps=100, rate_schedule="cosine", learning_rate=2e-3)
    rates = [learning_rate(step, params) for step in range(101)]
    assert rates[0] == 2e-3
    assert rates[50] == pytest.approx(1e-3)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(99, replace(params, rate_schedule="constant")) == 2e-3


def test_without_a_moving_average_the_teacher_is_the_student(backbone: Backbone) -> None:
    trainer = small_trainer(backbone, replace(SMALL, ema_decay=0.0))
    erased = trainer.run(ignore)
    assert erased.student is None
    for name, value in zip(trainer.student.names, trainer.student.values, strict=True):
        assert torch.equal(erased.teacher.tensors[name], value)
        assert not torch.equal(value, trainer.student.base[name])


def test_texts_take_the_roles_of_the_preset(backbone: Backbone) -> None:
    bank = TextBank(backbone, CONCEPTS, KEEP)
    joined, each = "axe, bomb, pistol", ["axe", "bomb", "pistol"]
    for index in range(4):
        text = each[index % 3]
        for preset, c_s, c_p in (("paper", joined, text), ("repo", text, joined)):
            batch = bank.draw(index, PRESETS["sdd"][preset], torch.Generator().manual_seed(index))
            assert batch.num_erase == 1
            assert_same(batch.c_s, backbone.encode([c_s]))
            assert_same(batch.c_p, backbone.encode([c_p]))


def assert_same(a: Condition, b: Condition) -> None:
    torch.testing.assert_close(a.hidden, b.hidden, atol=1e-5, rtol=0)


def test_kept_rows_follow_the_erased_ones(backbone: Backbone) -> None:
    bank = TextBank(backbone, CONCEPTS, ("hammer",))
    params = replace(SMALL, batch_size=4, keep_share=0.5)
    batch = bank.draw(0, params, torch.Generator().manual_seed(0))
    assert batch.num_erase == 2
    assert_same(batch.c_s, backbone.encode(["axe", "bomb", "hammer", "hammer"]))
    assert_same(batch.c_p, batch.c_s)


def test_targets_go_with_their_phrasings(backbone: Backbone) -> None:
    toward = ("", "rose", "", "owl", "key", "")
    pairs = dict(zip([f"{c} {w}" for c in ("axe", "bomb") for w in "abc"], toward, strict=True))
    two = replace(concept("axe", "bomb"), phrasings=tuple(pairs), toward=toward)
    bank = TextBank(backbone, (two,), ())
    params = replace(SMALL, batch_size=6, loss_text="phrasings", rollout_text="phrasings")
    known = {text: backbone.encode([text]).hidden[0] for text in [*pairs, *toward]}

    def name_of(hidden: torch.Tensor, names: Any) -> str:
        return min(names, key=lambda name: float((known[name] - hidden).abs().max()))

    seen = set()
    for index in range(8):
        batch = bank.draw(index, params, torch.Generator().manual_seed(index))
        for c_s, c_t in zip(batch.c_s.hidden, batch.c_t.hidden, strict=True):
            text = name_of(c_s, pairs)
            seen.add(text)
            assert name_of(c_t, set(toward)) == pairs[text]
    assert seen == set(pairs)
    plain = TextBank(backbone, CONCEPTS, KEEP).draw(0, params, torch.Generator().manual_seed(0))
    assert_same(plain.c_t, backbone.encode([""]).repeat(6))


@pytest.mark.parametrize(
    ("method", "preset"), [(m, p) for m, presets in PRESETS.items() for p in presets]
)
def test_one_step_of_each_preset(backbone: Backbone, method: str, preset: str) -> None:
    params = replace(PRESETS[method][preset], num_steps=1)
    infos: list[StepInfo] = []
    erased = small_trainer(backbone, params).run(infos.append)
    assert [info.step for info in infos] == [0]
    base = backbone.denoiser.state_dict()
    result = erased.student or erased.teacher
    moved = max(float((w - base[n]).abs().max()) for n, w in result.tensors.items())
    # Adam's first step has the size of the learning rate, whatever the gradient
    if not params.null_space:
        assert moved == pytest.approx(params.learning_rate, rel=0.1)
    assert moved > 0


@pytest.mark.parametrize("warmup", [False, True])
def test_teacher_is_the_moving_average_of_the_student(backbone: Backbone, warmup: bool) -> None:
    trainer = small_trainer(backbone, replace(SMALL, ema_decay=0.3, ema_warmup=warmup))
    expected = [value.detach().double() for value in trainer.student.values]

    def follow(info: StepInfo) -> None:
        m = min(0.3, (1 + info.step) / (10 + info.step)) if warmup else 0.3
        for mean, value in zip(expected, trainer.student.values, strict=True):
            mean.copy_(m * mean + (1 - m) * value.detach().double())

    erased = trainer.run(follow)
    for name, mean in zip(trainer.student.names, expected, strict=True):
        torch.testing.assert_close(erased.teacher.tensors[name].double(), mean, atol=1e-6, rtol=0)
        assert not torch.equal(erased.teacher.tensors[name], erased.student.tensors[name])


def test_base_stays_as_it_is(backbone: Backbone) -> None:
    before = unet_sha256(backbone.denoiser)
    erased = small_trainer(backbone, replace(SMALL, trainable="full")).run(ignore)
    assert unet_sha256(backbone.denoiser) == before == erased.teacher.base_sha256
    changed = backbone.denoiser.state_dict() | dict(erased.student.tensors)
    assert state_sha256(changed) != before


def test_passes_are_counted(backbone: Backbone) -> None:
    infos: list[StepInfo] = []
    params = replace(SMALL, num_steps=2, reuse=2, anchor_weight=1.0)
    erased = small_trainer(backbone, params).run(infos.append)
    # each loss: target 2, student 2 x 3, anchor 2 + 2 x 3; the rollout is on top
    assert erased.num_passes >= 2 * (2 + 6 + 8)
    assert (erased.num_passes - 2 * (2 + 6 + 8)) % 4 == 0
    assert [info.num_passes for info in infos] == sorted(info.num_passes for info in infos)


RESUMED = replace(
    SMALL,
    num_steps=6,
    reuse=2,
    order="random",
    loss_text="phrasings",
    rollout_text="phrasings",
    keep_share=0.5,
    ema_warmup=True,
    trainable="kv",
    null_space=0.1,
    log_every=1,
)


class Interrupted(Exception):
    pass


def patch_bytes(trainer: DistilTrainer, folder: Path, checkpoint: Path | None = None) -> bytes:
    erased = trainer.run(ignore, checkpoint)
    both = b""
    for patch in (erased.teacher, erased.student):
        save_patch(patch, folder / "patch.safetensors")
        both += (folder / "patch.safetensors").read_bytes()
    return both + str(erased.num_passes).encode()


@pytest.fixture(scope="module")
def uninterrupted(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return patch_bytes(small_trainer(backbone, RESUMED), tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop_at", [2, 3])
def test_interrupted_run_ends_with_the_same_bytes(
    backbone: Backbone, tmp_path: Path, uninterrupted: bytes, stop_at: int
) -> None:
    """Interrupted at the first or at the second step of a rollout, which is then repeated."""
    checkpoint = tmp_path / "checkpoint.safetensors"

    def interrupt(info: StepInfo) -> None:
        if info.step == stop_at:
            raise Interrupted

    with pytest.raises(Interrupted):
        small_trainer(backbone, RESUMED).run(interrupt, checkpoint)
    trainer = small_trainer(backbone, RESUMED)
    trainer.restore(checkpoint)
    assert trainer.progress.step == 2
    assert patch_bytes(trainer, tmp_path, checkpoint) == uninterrupted


def test_checkpoints_are_written_by_the_clock(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that steps move by ten seconds each, and writing by a hundred."""
    clock, saved = [0.0], []
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def save(path: Path, progress: Progress, *rest: Any) -> None:
        clock[0] += 100
        saved.append(progress.step)

    def tick(info: StepInfo) -> None:
        clock[0] += 10

    monkeypatch.setattr(trainer_module, "save_checkpoint", save)
    for seconds, steps in ((0.0, [2, 4, 6, 8]), (30.0, [4, 8]), (60.0, [6, 8]), (1e9, [8])):
        saved.clear()
        params = replace(SMALL, num_steps=8, reuse=2, save_every_s=seconds)
        small_trainer(backbone, params).run(tick, tmp_path / "checkpoint")
        assert saved == steps


def test_without_a_moving_average_no_copy_is_kept(backbone: Backbone, tmp_path: Path) -> None:
    params, path = replace(RESUMED, ema_decay=0.0, ema_warmup=False), tmp_path / "checkpoint"
    whole = small_trainer(backbone, params)
    assert whole.average is None
    ends = [value.data_ptr() for value in whole.student.values]
    assert [value.data_ptr() for value in whole.teacher] == ends
    expected = state_sha256(whole.run(ignore).teacher.tensors)

    def interrupt(info: StepInfo) -> None:
        if info.step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        small_trainer(backbone, params).run(interrupt, path)
    with safe_open(path, "pt") as file:
        kinds = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118
    assert kinds == {"student", "optimizer", "left"}
    again = small_trainer(backbone, params)
    again.restore(path)
    assert state_sha256(again.run(ignore).teacher.tensors) == expected


def test_what_it_took_adds_up_over_attempts_and_processes(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only steps move, ten seconds each."""
    clock, checkpoint = [0.0], tmp_path / "checkpoint.safetensors"
    stopped = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("safediff.erase.trainer.time", stopped)

    def tick(info: StepInfo) -> None:
        clock[0] += 10

    def interrupt(info: StepInfo) -> None:
        tick(info)
        if info.step == 2:  # after the checkpoint of the first rollout
            raise Interrupted

    with pytest.raises(Interrupted):
        small_trainer(backbone, RESUMED).run(interrupt, checkpoint)
    clock[0] += 1000  # nobody was there
    trainer = small_trainer(backbone, RESUMED)
    trainer.restore(checkpoint)
    assert (trainer.progress.seconds, trainer.progress.process_seconds) == (20, 20)
    took = trainer.run(tick, checkpoint).progress
    assert took.seconds == took.process_seconds == 10 * RESUMED.num_steps
    again = small_trainer(backbone, RESUMED)
    again.restore(checkpoint)  # killed between the last checkpoint and the patch
    assert again.run(tick).progress == took
    again.shards = Shards(0, 4)
    clock[0] += 5
    took = again._timed()
    assert took.process_seconds - took.seconds == 3 * 5  # one process until now, then four


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
from erase_examples import frozen_backbone, small_trainer
from test_erase_trainer import RESUMED

replace, saves = os.replace, []

def dying_replace(source, target):
    saves.append(target)
    if len(saves) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

folder = Path(sys.argv[1])
backbone = frozen_backbone(folder)
trainer = small_trainer(backbone, RESUMED)
os.replace = dying_replace
trainer.run(lambda info: None, folder / "checkpoint.safetensors")
"""


def test_run_killed_while_writing_ends_with_the_same_bytes(
    backbone: Backbone, tmp_path: Path, uninterrupted: bytes
) -> None:
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path])}
    threads = str(torch.get_num_threads())  # other numbers round differently
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path), threads]
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "checkpoint.safetensors.tmp").exists()
    trainer = small_trainer(backbone, RESUMED)
    trainer.restore(tmp_path / "checkpoint.safetensors")
    assert trainer.progress.step == 2
    assert patch_bytes(trainer, tmp_path) == uninterrupted


@pytest.fixture(scope="module")
def checkpoint(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    small_trainer(backbone, replace(SMALL, num_steps=1)).run(ignore, path)
    return path


def test_a_checkpoint_that_does_not_say_what_it_took_is_refused(
    backbone: Backbone, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(checkpoint, "pt") as file:
        meta = json.loads(file.metadata()["checkpoint"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del meta["progress"]["seconds"], meta["progress"]["process_seconds"]
    save_file(tensors, path, {"checkpoint": json.dumps(meta)})
    trainer = small_trainer(backbone, replace(SMALL, num_steps=1))
    before = [value.detach().clone() for value in trainer.student.values]
    with pytest.raises(UsageError, match="do not say what they took") as caught:
        trainer.restore(path)
    assert caught.value.next_step == "choose another --out, to start again"
    assert all(map(torch.equal, before, trainer.student.values))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def forget_metadata(path: Path) -> None:
    save_file({"student.0": torch.zeros(1)}, path)


@pytest.mark.parametrize("damage", [cut, empty, forget_metadata])
def test_damaged_checkpoint_is_refused(
    backbone: Backbone, checkpoint: Path, tmp_path: Path, damage: Any
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(checkpoint.read_bytes())
    small_trainer(backbone, replace(SMALL, num_steps=1)).restore(path)
    damage(path)
    with pytest.raises(Inconclusive, match="damaged checkpoint"):
        small_trainer(backbone, replace(SMALL, num_steps=1)).restore(path)


@pytest.mark.parametrize(
    "change",
    [
        {"params": replace(SMALL, num_steps=1, learning_rate=3e-3)},
        {"seed": 8},
        {"keep": ("hammer",)},
        {"concepts": (concept("axe"),)},
    ],
    ids=["params", "seed", "keep", "concepts"],
)
def test_checkpoint_of_another_plan_is_refused(
    backbone: Backbone, checkpoint: Path, change: dict[str, Any]
) -> None:
    options = {"params": replace(SMALL, num_steps=1)} | change
    trainer = small_trainer(backbone, **options)
    with pytest.raises(UsageError, match="another plan"):
        trainer.restore(checkpoint)


@pytest.mark.parametrize("knob", WITHOUT_EFFECT)
def test_what_changes_no_result_does_not_keep_a_checkpoint_from_going_on(
    backbone: Backbone, knob: str
) -> None:
    params = replace(SMALL, num_steps=1)
    value = getattr(params, knob)
    change: dict[str, Any] = {knob: not value if isinstance(value, bool) else value + 1}
    other = replace(params, **change)
    assert small_trainer(backbone, params).key == small_trainer(backbone, other).key


@pytest.mark.parametrize("planted", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path, planted: float) -> None:
    broken = frozen_backbone(tmp_path)
    with torch.no_grad():
        broken.denoiser.conv_out.weight[0, 0, 0, 0] = planted
    with pytest.raises(Inconclusive, match="not finite"):
        small_trainer(broken).run(ignore)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 1e-3}, "unknown knob"),
        ({"num_steps": 1.5}, "is not int"),
        ({"ema_warmup": 1}, "is not bool"),
        ({"learning_rate": True}, "is not a number"),
        ({"target": "teacher"}, "student or frozen"),
        ({"num_steps": 0}, "at least 1"),
        ({"reuse": 51}, "must not exceed"),
        ({"ema_decay": 1.0}, "at least 0 and below 1"),
        ({"timesteps": "early", "reuse": 26}, "half of num_inference_steps"),
        ({"keep_share": 0.6}, "leaves no row"),
        ({"eta": 1.0}, "set target: frozen"),
        ({"lora_rank": 4, "trainable": "full"}, "attention matrices only"),
        ({"null_space": 0.1}, "keys and values"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve("sdd", "paper", options)
    assert message in f"{caught.value}; {caught.value.next_step}"


def test_options_override_the_preset() -> None:
    found = resolve("sdd", "paper", {"num_steps": 10, "learning_rate": 1})
    assert found == replace(PRESETS["sdd"]["paper"], num_steps=10, learning_rate=1)
    with pytest.raises(UsageError, match="sdd has no preset 'papers'"):
        resolve("sdd", "papers", {})


def test_null_drift_is_logged_when_due(backbone: Backbone) -> None:
    infos: list[StepInfo] = []
    small_trainer(backbone, replace(SMALL, log_every=2)).run(infos.append)
    drifts: list[float | None] = [info.null_drift for info in infos]
    assert [drift is not None for drift in drifts] == [True, False, True, True]
    last = drifts[-1]
    assert last is not None
    assert last > 0
