"""``safediff erase``: distil, verify, export, verify the engine, release."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from safediff.gate.verdict import GateReport, Verdict, combined
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.plan import Plan
from safediff.release.layout import write_release
from safediff.sample.shards import ALONE, Shards
from safediff.verify.album import Album
from safediff.verify.verification import Verification
from safediff.workflow.engines import ENGINE, prepare_engine
from safediff.workflow.evidence import (
    certificate_evidence,
    modification,
    report_data,
    write_reports,
)
from safediff.workflow.proofs import prove_base, prove_plan, say_device
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.safe_model import patched
from safediff.workflow.training import Training, train
from safediff.workflow.ui import Task, Ui

TEACHER, STUDENT = "teacher", "student"


@dataclass
class Outcome:
    """What a run came to."""

    run: RunFolder
    reports: list[GateReport] = field(default_factory=list)
    released: bool = False

    @property
    def verdict(self) -> Verdict:
        """Over all deciding reports."""
        return combined(self.reports)


class Pictures:
    """Shows one task per subject, and per attack on it, while its pictures are drawn."""

    def __init__(self, ui: Ui, plan: Plan) -> None:
        self.ui, self.total = ui, plan.verify.num_images(len(plan.concepts))
        self.num_attempts = plan.verify.num_attempts
        self.tasks: dict[str, Task] = {}
        self.left: dict[str, int] = {}

    def __call__(self, subject: str, count: int) -> None:
        """``count`` more pictures of ``subject`` are there."""
        if subject not in self.tasks:
            how = subject.rpartition(" under ")[2]
            total = self.num_attempts.get(how, self.total)
            self.tasks[subject] = self.ui.task(f"draw {subject}", total)
            self.left[subject] = total
        # what the base shows under an attack is asked for again with every model that is attacked
        step = min(count, self.left[subject])
        self.left[subject] -= step
        if step:
            self.tasks[subject].advance(step, "pictures")


def erase(
    plan: Plan,
    run: RunFolder,
    ui: Ui,
    *,
    compare_student: bool = True,
    shards: Shards = ALONE,
    trackers: Sequence[str] = (),
    base: Backbone | None = None,
) -> Outcome:
    """Run the whole job; every finished part of an earlier attempt in ``run`` is kept.

    Several processes share training and drawing; process 0 exports, decides and writes.

    Args:
        plan: What to erase and to check.
        run: Where; on a file system that all processes see.
        ui: Shows progress.
        compare_student: Measure the student beside the teacher.
        shards: The processes.
        trackers: Experiment trackers that are told of every step.
        base: The plan's model, where it is loaded already; it is left as it is.
    """
    judges = prove_plan(plan)  # before hours of training, not after
    if base is None:
        base = load_backbone(plan.model)
    say_device(base, ui)
    prove_base(plan, base, judges, ui, exports=True)
    training = train(plan, base, run, ui, shards, trackers)
    outcome = Outcome(run)
    teacher, base_sha256 = patched(base, training.teacher), training.teacher.base_sha256
    pictures = Pictures(ui, plan)
    with Verification(plan, base, base_sha256, run.path, pictures, shards) as verification:
        hashes = {"base": base_sha256, "unet": unet_sha256(teacher.denoiser)}
        report, album = verification.measure(TEACHER, teacher, hashes)
        outcome.reports.append(report)
        albums = [verification.base_album, album]
        if compare_student and training.student is not None:
            student = patched(base, training.student)
            report, album = verification.measure(
                STUDENT, student, {"unet": unet_sha256(student.denoiser)}, decides=False
            )
            outcome.reports.append(report)
            albums.append(album)
        if outcome.verdict.exit_code == 0:
            parity = []
            if "onnx" in plan.export.targets:
                parity = _export(plan, base, teacher, training, verification, outcome, albums, ui)
            if outcome.verdict.exit_code == 0:
                outcome.released = True
                if shards.leads:
                    _release(plan, base, teacher, training, verification, outcome, parity)
        if shards.leads:
            draws = verification.erased_draws(), verification.kept
            data = report_data(plan, outcome.reports, albums, training, *draws)
            write_reports(run, outcome.reports, data)
        shards.wait()
    return outcome


def _export(
    plan: Plan,
    base: Backbone,
    teacher: Backbone,
    training: Training,
    verification: Verification,
    outcome: Outcome,
    albums: list[Album],
    ui: Ui,
) -> list[dict[str, Any]]:
    """Engine, its parity for the certificate, its gate."""
    task = ui.task("export onnx", 1)
    found = prepare_engine(plan, base, teacher, outcome.run.engine, verification.shards)
    task.advance(1)
    task.done(f"differs by at most {found.max_abs:.1e} standard deviations")
    weights = found.parity["weights_sha256"]
    hashes = {"base": training.teacher.base_sha256, "engine": weights}
    report, album = verification.measure(ENGINE, found.backbone, hashes, extra=found.checks)
    outcome.reports.append(report)
    albums.append(album)
    return [found.parity]


def _release(
    plan: Plan,
    base: Backbone,
    teacher: Backbone,
    training: Training,
    verification: Verification,
    outcome: Outcome,
    parity: list[dict[str, Any]],
) -> None:
    """The release, of weights alone where no engine was asked for."""
    run = outcome.run
    evidence = certificate_evidence(
        plan,
        run,
        outcome.reports,
        verification.judges,
        training.teacher.base_sha256,
        modification(plan, run, training, base),
        parity,
    )
    write_release(
        run.release,
        teacher,
        evidence,
        engine=run.engine if parity else None,
        extra_files={
            "patch.safetensors": run.patch,
            "journal.jsonl": run.path / "journal.jsonl",
        }
        | ({run.adapter.name: run.adapter} if run.adapter.exists() else {}),
    )
