"""Erasing as a task of a run: logs every step, continues where it stopped, writes both patches."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from safediff.erase.params import SddParams, resolve
from safediff.erase.trainer import SddTrainer, StepInfo
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch, load_patch, save_patch
from safediff.policy.plan import Plan
from safediff.workflow.run_folder import RunFolder, append_json, read_training
from safediff.workflow.ui import Task, Ui


@dataclass(frozen=True, kw_only=True)
class Training:
    """Both patches and how they came about."""

    teacher: Patch
    student: Patch
    params: SddParams
    facts: dict[str, str]
    """For the report: method, steps, seconds, passes."""
    steps: list[dict[str, Any]]
    """``StepInfo`` as plain data, one a step."""


def train(plan: Plan, backbone: Backbone, run: RunFolder, ui: Ui) -> Training:
    """Erase the plan's concepts, or read the patches if the run already has them."""
    params = resolve(plan.erase.preset, plan.erase.options)
    if not (run.patch.exists() and run.student_patch.exists()):
        _train(plan, params, backbone, run, ui)
    teacher, student = load_patch(run.patch), load_patch(run.student_patch)
    return Training(
        teacher=teacher,
        student=student,
        params=params,
        facts=_facts(plan, params, teacher),
        steps=read_training(run.training),
    )


def _train(plan: Plan, params: SddParams, backbone: Backbone, run: RunFolder, ui: Ui) -> None:
    trainer = SddTrainer(backbone, plan.concepts, plan.erase.keep, params, plan.erase.seed)
    resumed = run.checkpoint.exists()
    if resumed:
        trainer.restore(run.checkpoint)
    _cut_log(run, trainer.progress.step)
    task = ui.task("erase", params.num_steps)
    task.advance(trainer.progress.step)
    began = time.monotonic()
    erased = trainer.run(_on_step(run, task, params.batch_size), run.checkpoint)
    seconds = time.monotonic() - began
    metadata = {"seconds": f"{seconds:.1f}", "resumed": str(resumed).lower()}
    run.write_text("training.json", json.dumps(metadata | {"passes": erased.num_passes}) + "\n")
    save_patch(erased.student, run.student_patch)
    save_patch(erased.teacher, run.patch)
    task.done(f"loss {trainer.last_loss:.4f}")


def _on_step(run: RunFolder, task: Task, batch_size: int) -> Callable[[StepInfo], None]:
    def on_step(info: StepInfo) -> None:
        append_json(run.training, asdict(info))
        images = (info.step + 1) * batch_size
        task.advance(1, f"loss {info.loss:.4f}, {images} latents seen")

    return on_step


def _cut_log(run: RunFolder, step: int) -> None:
    rows = read_training(run.training, before_step=step)
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    run.write_text(run.training.name, text)


def _facts(plan: Plan, params: SddParams, teacher: Patch) -> dict[str, str]:
    changed = sum(tensor.numel() for tensor in teacher.tensors.values())
    return {
        "method": f"SDD (arXiv:2307.05977), preset {plan.erase.preset}",
        "steps": f"{params.num_steps} of {params.batch_size} latents, learning rate "
        f"{params.learning_rate:g}",
        "trained": f"{params.trainable}, {changed:,} parameters",
        "seed": str(plan.erase.seed),
    }
