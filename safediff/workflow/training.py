"""Erasing as a task of a run: logs every step, continues where it stopped, writes both patches.

Of several processes, process 0 alone writes.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from safediff.erase.checkpoint import Progress
from safediff.erase.closed_form.params import SpeedParams, UceParams
from safediff.erase.closed_form.solve import solve
from safediff.erase.methods import EraserParams, find_method, settings_of
from safediff.erase.params import DistilParams
from safediff.erase.trainer import DistilTrainer, Erased, OnStep, StepInfo
from safediff.errors import Inconclusive
from safediff.models.adapter import save_adapter
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch, load_patch, save_patch
from safediff.policy.plan import Plan
from safediff.registry import import_part
from safediff.sample.shards import ALONE, Shards
from safediff.workflow.run_folder import RunFolder, append_json, read_training
from safediff.workflow.tracking import tracking
from safediff.workflow.trained_with import COST, require_same_settings, settings_that_count
from safediff.workflow.ui import Task, Ui


@dataclass(frozen=True, kw_only=True)
class Training:
    """The patches and how they came about."""

    teacher: Patch
    """What is released: SDD's moving average, or the only result of other methods."""
    student: Patch | None
    params: EraserParams
    facts: dict[str, str]
    """For the report: method, steps, seconds, passes."""
    steps: list[dict[str, Any]]
    """``StepInfo`` as plain data, one a step; none of the closed-form methods."""


def train(
    plan: Plan,
    backbone: Backbone,
    run: RunFolder,
    ui: Ui,
    shards: Shards = ALONE,
    trackers: Sequence[str] = (),
) -> Training:
    """Erase the plan's concepts, or read the patches if the run already has them.

    Several processes share a distillation; process 0 solves closed forms, and alone writes.
    ``trackers`` are told of every step.

    Raises:
        UsageError: a checkpoint belongs to another plan, a finished patch was trained with other
            settings, or there is no such tracker here.
        Inconclusive: training failed, or another process has ended.
    """
    params = settings_of(plan.erase)
    require_same_settings(run, params)
    if not shards.agree("patch", run.patch.exists):  # written last
        _erase(plan, params, backbone, run, ui, shards, trackers)
        shards.wait()
    teacher, steps = load_patch(run.patch), read_training(run.training)
    return Training(
        teacher=teacher,
        student=load_patch(run.student_patch) if run.student_patch.exists() else None,
        params=params,
        facts=_facts(plan, params, teacher, steps),
        steps=steps,
    )


def _erase(
    plan: Plan,
    params: EraserParams,
    backbone: Backbone,
    run: RunFolder,
    ui: Ui,
    shards: Shards,
    trackers: Sequence[str],
) -> None:
    began, resumed = time.monotonic(), run.checkpoint.exists()
    took = Progress(0, 0, 0)
    if isinstance(params, DistilParams):
        erased = _distil(plan, params, backbone, run, ui, shards, trackers)
        teacher, took = erased.teacher, erased.progress
        if shards.leads and erased.adapter is not None:
            save_adapter(erased.adapter, run.adapter, backbone.component)
        if shards.leads and erased.student is not None:
            save_patch(erased.student, run.student_patch)
    elif shards.leads:
        task = ui.task("erase", 1)
        teacher = _solve(plan, params, backbone)
        task.advance(1, "solved")
        seconds = time.monotonic() - began
        took = replace(took, seconds=seconds, process_seconds=seconds)  # the others wait
    if shards.leads:
        cost = {
            "seconds": f"{took.seconds:.1f}",
            "process_seconds": f"{took.process_seconds:.1f}",
            "resumed": str(resumed).lower(),
            "passes": took.num_passes,
            "threads": torch.get_num_threads(),
            "settings": settings_that_count(params),
        }
        if shards.count > 1:
            cost["processes"] = shards.count
        run.write_text(COST, json.dumps(cost) + "\n")
        save_patch(teacher, run.patch)


def _solve(plan: Plan, params: EraserParams, backbone: Backbone) -> Patch:
    """A closed-form eraser of ours, or one of another package.

    Raises:
        Inconclusive: the package cannot be imported, or gave something else than a patch.
    """
    entry = plan.erase
    if isinstance(params, UceParams | SpeedParams):
        return solve(backbone, plan.concepts, entry.keep, params)
    function = import_part(f"eraser {entry.method!r}", find_method(entry.method).solve)
    patch = function(backbone, plan.concepts, entry.keep, params, entry.seed)
    if not isinstance(patch, Patch):
        raise Inconclusive(f"eraser {entry.method!r} gave {type(patch).__name__}, not a Patch")
    return patch


def _distil(
    plan: Plan,
    params: DistilParams,
    backbone: Backbone,
    run: RunFolder,
    ui: Ui,
    shards: Shards,
    trackers: Sequence[str],
) -> Erased:
    entry = plan.erase
    trainer = DistilTrainer(
        backbone, plan.concepts, entry.keep, params, entry.seed, entry.method, shards
    )
    if shards.agree("checkpoint", run.checkpoint.exists):
        trainer.restore(run.checkpoint)
    if shards.leads:
        _cut_log(run, trainer.progress.step)
    shards.wait()  # everyone has read the checkpoint before it is replaced
    if shards.leads and (note := idle_note(shards.count, params.batch_size)):
        ui.say(note)
    task = ui.task("erase", params.num_steps)
    task.advance(trainer.progress.step)
    with tracking(trackers if shards.leads else (), plan, params, run) as track:
        on_step = _on_step(run, task, params.batch_size, track) if shards.leads else _ignore
        erased = trainer.run(on_step, run.checkpoint)
    loss, taken = f"loss {trainer.last_loss:.4f}", trainer.progress.step
    early = taken < params.num_steps
    task.done(f"{loss} after {taken} steps, {_why_early(params)}" if early else loss)
    return erased


def idle_note(num_processes: int, batch_size: int) -> str | None:
    """What to say where there are more processes than rows of a batch; None where there are not."""
    if num_processes <= batch_size:
        return None
    return (
        f"note: training batches of {batch_size} keep {batch_size} of {num_processes} processes "
        "busy, the others add nothing to training (they do to drawing); "
        "see erase.options.batch_size"
    )


def _on_step(run: RunFolder, task: Task, batch_size: int, track: OnStep) -> OnStep:
    def on_step(info: StepInfo) -> None:
        append_json(run.training, asdict(info))
        track(info)
        images = (info.step + 1) * batch_size
        task.advance(1, f"loss {info.loss:.4f}, {images} latents seen")

    return on_step


def _ignore(info: StepInfo) -> None:
    """What processes that do not lead do with a step."""


def _cut_log(run: RunFolder, step: int) -> None:
    rows = read_training(run.training, before_step=step)
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    run.write_text(run.training.name, text)


def _why_early(params: DistilParams) -> str:
    return f"since less than {params.stop_at:g} of every text was left"


def _facts(
    plan: Plan, params: EraserParams, teacher: Patch, steps: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    method = find_method(plan.erase.method)
    changed = sum(tensor.numel() for tensor in teacher.tensors.values())
    facts = {"method": f"{method.title} ({method.paper}), preset {plan.erase.preset}"}
    if isinstance(params, DistilParams):
        facts["steps"] = (
            f"{params.num_steps} of {params.batch_size} latents, learning rate "
            f"{params.learning_rate:g}"
        )
        if params.stop_at and steps and (taken := steps[-1]["step"] + 1) < params.num_steps:
            facts["steps"] += f"; ended after {taken}, {_why_early(params)}"
        facts["seed"] = str(plan.erase.seed)
        facts["trained"] = f"{params.trainable}, {changed:,} parameters"
    elif isinstance(params, UceParams | SpeedParams):
        facts["changed"] = f"{params.matrices}, {changed:,} parameters, solved in closed form"
    else:
        facts["changed"] = f"{changed:,} parameters"
    return facts
