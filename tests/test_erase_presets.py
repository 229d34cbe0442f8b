"""Two steps of every preset of SDD and ESD against the formulas, written out in float64."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from distil_reference import (
    Network,
    Optimizer,
    bin_of,
    ddim,
    gradient,
    soft_null_space,
    tensors,
    trained,
)
from erase_examples import CONCEPTS, KEEP, frozen_backbone, small_trainer
from torch import Tensor

from safediff.erase import trainer as trainer_module
from safediff.erase.params import PRESETS, DistilParams
from safediff.erase.rollout import State
from safediff.erase.texts import Batch
from safediff.erase.trainer import DistilTrainer, StepInfo
from safediff.models.backbone import Backbone, Condition

ALL = [(method, preset) for method, presets in PRESETS.items() for preset in presets]
UNITS = [text for concept in CONCEPTS for text in concept.erase]
PHRASINGS = {text: {text, f"one {text} here"} for text in UNITS}
NUM_STEPS = 2
MAX_STEPS = 10
"""Of a trajectory: longer ones are cut, which changes how far u reaches and nothing else."""
LOUD = 40.0
"""By how much the UNet's answers are amplified: those of random weights hardly heed the text."""
CLIP = 1e-3
"""The clipping norm is made this much smaller, so that it acts on the gradients that are left."""


@dataclass(repr=False)
class Rolled:
    """One rollout as the trainer made it."""

    texts: Batch
    c_p: Tensor
    steps: list[int]
    noise_from: Tensor
    """State of the generator that z_T is drawn from."""
    student: list[Tensor]
    teacher: list[Tensor]
    states: list[State] = field(default_factory=list)


@dataclass(repr=False)
class Taken:
    """One optimiser step as the trainer made it."""

    before: list[Tensor]
    gradients: list[Tensor]
    after: list[Tensor]
    teacher: list[Tensor]
    info: StepInfo
    rolled: Rolled
    state: State


@dataclass(repr=False)
class Run:
    """Two steps of the trainer and what they started from."""

    trainer: DistilTrainer
    params: DistilParams
    start: list[Tensor]
    taken: list[Taken]
    rolled: list[Rolled]


def copies(values: Sequence[Tensor]) -> list[Tensor]:
    return [value.detach().clone() for value in values]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    found = frozen_backbone(tmp_path_factory.mktemp("tiny"))
    found.denoiser.double()
    with torch.no_grad():
        found.denoiser.conv_out.weight *= LOUD
    return found


@pytest.fixture(scope="module", params=ALL, ids="-".join)
def run(request: pytest.FixtureRequest, backbone: Backbone) -> Run:
    method, preset = request.param
    preset_params = PRESETS[method][preset]
    length = min(preset_params.num_inference_steps, MAX_STEPS)
    params = replace(
        preset_params,
        num_steps=NUM_STEPS,
        num_inference_steps=length,
        max_grad_norm=CLIP * preset_params.max_grad_norm,
    )
    with pytest.MonkeyPatch.context() as patch:
        return followed(backbone, params, patch)


def followed(backbone: Backbone, params: DistilParams, patch: pytest.MonkeyPatch) -> Run:
    """Train, noting every rollout and step; values are float64, so that nothing is rounded away."""
    trainer = small_trainer(backbone, params)
    for value in trainer.student.values:
        value.data = value.data.double()
    if trainer.student.projector is not None:
        trainer.student.projector = trainer.student.projector.double()
    if trainer.average is not None:
        trainer.average = [value.double() for value in trainer.average]
    drawn: list[Batch] = []
    raw: list[tuple[list[Tensor], list[Tensor]]] = []
    found = Run(trainer, params, copies(trainer.student.values), [], [])
    draw, rollout, clip = (
        trainer.texts.draw,
        trainer_module.rollout,
        trainer.accelerator.clip_grad_norm_,
    )

    def noted_draw(*arguments: Any) -> Batch:
        drawn.append(draw(*arguments))
        return drawn[-1]

    def noted_rollout(
        model: Backbone, null: Condition, c_p: Condition, steps: list[int], *rest: Any
    ) -> list[State]:
        noted = Rolled(
            *(drawn[-1], c_p.hidden, steps, rest[1].get_state()),
            *(copies(trainer.student.values), copies(trainer.teacher)),
        )
        found.rolled.append(noted)
        noted.states.extend(rollout(model, null, c_p, steps, *rest))
        return noted.states

    def noted_clip(values: Any, limit: float) -> Tensor:
        own = list(trainer.student.values)
        raw.append((copies(own), [value.grad.detach().clone() for value in own]))
        return clip(own, limit)

    def on_step(info: StepInfo) -> None:
        rolled = found.rolled[-1]
        after, teacher = copies(trainer.student.values), copies(trainer.teacher)
        earlier = sum(taken.rolled is rolled for taken in found.taken)
        found.taken.append(Taken(*raw[-1], after, teacher, info, rolled, rolled.states[earlier]))

    patch.setattr(trainer.texts, "draw", noted_draw)
    patch.setattr(trainer_module, "rollout", noted_rollout)
    patch.setattr(trainer.accelerator, "clip_grad_norm_", noted_clip)
    trainer.run(on_step)
    return found


def base_of(run: Run) -> dict[str, Tensor]:
    """W_0 of what is trained, in the trainer's order."""
    state = dict(run.trainer.original.denoiser.named_parameters())
    return {name: state[name].detach() for name in run.trainer.student.names}


def projector_of(run: Run) -> Tensor | None:
    if not run.params.null_space:
        return None
    tokens = run.trainer.original.encode([*KEEP, ""]).hidden.flatten(0, 1)
    return soft_null_space(tokens, run.params.null_space)


def network_of(run: Run) -> Network:
    return Network(copy.deepcopy(run.trainer.original.denoiser))


def relative(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """|found - expected| / |expected| over all tensors."""
    pairs = list(zip(found, expected, strict=True))
    gap = sum(float((a.double() - b).square().sum()) for a, b in pairs)
    return (gap / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


def test_two_steps_are_taken_of_what_the_preset_trains(run: Run) -> None:
    assert [taken.info.step for taken in run.taken] == [0, 1]
    every = [name for name, _ in run.trainer.original.denoiser.named_parameters()]
    wanted = [name for name in every if trained(name, run.params.trainable)]
    if run.params.null_space:
        wanted = [name for name in wanted if name.endswith(".weight")]
    assert run.trainer.student.names == wanted


def names_of(run: Run, texts: Tensor, known: Sequence[str]) -> list[str]:
    """Which texts these are, (n, l, d) to n names."""
    hidden = run.trainer.original.encode(list(known)).hidden
    found = []
    for row in texts:
        distance = (hidden - row).abs().flatten(1).amax(1)
        assert float(distance.min()) < 1e-5
        found.append(known[int(distance.argmin())])
    return found


def test_texts_take_their_roles(run: Run) -> None:
    joined = ", ".join(UNITS)
    phrased = sorted(set().union(*PHRASINGS.values()))
    known = [joined, *phrased, *KEEP]
    p = run.params
    num_keep = round(p.keep_share * p.batch_size)
    num_erase = p.batch_size - num_keep
    for index, rolled in enumerate(run.rolled):
        loss = names_of(run, rolled.texts.c_s.hidden, known)
        drawn = names_of(run, rolled.c_p, known)
        assert rolled.texts.num_erase == num_erase
        assert loss[num_erase:] == drawn[num_erase:]
        assert set(loss[num_erase:]) <= set(KEEP)
        for row in range(num_erase):
            cyclic = UNITS[(index * num_erase + row) % len(UNITS)]
            units = [cyclic] if p.order == "cyclic" else UNITS
            allowed = {
                "joined": [{joined}],
                "each": [{unit} for unit in units],
                "phrasings": [PHRASINGS[unit] for unit in units],
            }
            assert any(loss[row] in texts for texts in allowed[p.loss_text])
            assert any(drawn[row] in texts for texts in allowed[p.rollout_text])
            if p.loss_text == p.rollout_text == "each":
                assert loss[row] == drawn[row]
        null = run.trainer.original.encode([""]).hidden
        assert torch.allclose(rolled.texts.c_t.hidden, null.expand(num_erase, -1, -1), atol=1e-5)


def test_latents_are_the_teachers_or_whoevers_rollout(run: Run) -> None:
    """u of N guided steps from z_T by the model that the preset names, and t from bin(u)."""
    p, network, base, projector = run.params, network_of(run), base_of(run), projector_of(run)
    c_0 = run.trainer.original.encode([""]).hidden
    for rolled in run.rolled:
        assert rolled.steps == sorted(set(rolled.steps))
        assert len(rolled.steps) == p.reuse
        latest = (
            (p.num_inference_steps + 1) // 2 if p.timesteps == "early" else p.num_inference_steps
        )
        assert 0 <= rolled.steps[0] <= rolled.steps[-1] < latest
        generator = torch.Generator()
        generator.set_state(rolled.noise_from)
        z_t = torch.randn(p.batch_size, *run.trainer.original.latent_shape, generator=generator)
        who = {"teacher": rolled.teacher, "student": rolled.student}.get(p.rollout_model)
        w = base if who is None else tensors(base, who, projector)
        null = c_0.expand(p.batch_size, -1, -1)
        u = rolled.steps[0]
        with torch.no_grad():
            z = ddim(network, w, z_t, null, rolled.c_p, u, p)
        assert relative([rolled.states[0].z], [z]) < 1e-4
        for state, steps in zip(rolled.states, rolled.steps, strict=False):
            assert state.u == steps
            assert set(state.t.tolist()) <= set(bin_of(steps, p.num_inference_steps))


def reference_gradient(run: Run, taken: Taken, **changes: Any) -> tuple[float, list[Tensor]]:
    texts = taken.rolled.texts
    null = run.trainer.original.encode([""]).hidden
    return gradient(
        *(network_of(run), base_of(run), taken.before, projector_of(run)),
        *(taken.state.z, taken.state.t, (null, texts.c_s.hidden, texts.num_erase)),
        replace(run.params, **changes),
    )


def test_loss_and_gradient_are_the_papers(run: Run) -> None:
    for taken in run.taken:
        loss, expected = reference_gradient(run, taken)
        assert taken.info.loss == pytest.approx(loss, rel=1e-4)
        assert relative(taken.gradients, expected) < 1e-3
        norm = sum(float(g.square().sum()) for g in expected) ** 0.5
        assert taken.info.grad_norm == pytest.approx(norm, rel=1e-3)
    last = run.taken[-1]
    other = {"eta": run.params.eta + 0.5, "target": "frozen"}
    assert relative(last.gradients, reference_gradient(run, last, **other)[1]) > 1e-2


def optimizer(run: Run, **planted: Any) -> Optimizer:
    """From the trainer's starting values, whatever these are."""
    changes = {name: planted.pop(name) for name in tuple(planted) if hasattr(run.params, name)}
    params = replace(run.params, **changes)
    return Optimizer(params, copies(run.start), copies(run.start), **planted)


def gap(run: Run, **planted: Any) -> float:
    """How far two steps by the formula, from the same gradients, end from the trainer's.

    Relative to what the steps changed; of the student and, where there is an average, the teacher.
    """
    formula, worst = optimizer(run, **planted), 0.0
    start = run.start
    for taken in run.taken:
        formula.take(taken.gradients)
        for found, expected in ((taken.after, formula.values), (taken.teacher, formula.teacher)):
            moved = [a - b for a, b in zip(found, start, strict=True)]
            wanted = [a - b for a, b in zip(expected, start, strict=True)]
            worst = max(worst, relative(moved, wanted))
    return worst


EXACT = 1e-7


def test_clipping_adamw_and_the_average_are_the_formulas(run: Run) -> None:
    assert gap(run) < EXACT


def test_planted_mistakes_are_seen(run: Run) -> None:
    p = run.params
    assert min(taken.info.grad_norm for taken in run.taken) > p.max_grad_norm  # clipping acts
    planted: list[dict[str, Any]] = [
        {"weight_decay": p.weight_decay + 1e-2},
        {"max_grad_norm": 2 * p.max_grad_norm},
        {"clip": False},
        {"ema_decay": 0.05},
        {"ema_warmup": not p.ema_warmup, "ema_decay": max(p.ema_decay, 0.5)},
        {"beta1": 0.8},
        {"learning_rate": 1.01 * p.learning_rate},
    ]
    if p.weight_decay:
        planted.append({"coupled": True})
    for mistake in planted:
        assert gap(run, **mistake) > 10 * EXACT, mistake
