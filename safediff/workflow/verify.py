"""``safediff verify``: the gate on any model, against the base that the policy names."""

from collections.abc import Sequence
from pathlib import Path

import torch

from safediff.export.identity import initializers_sha256, verify_identity
from safediff.gate.baseline import Baseline
from safediff.gate.verdict import CheckResult, GateReport
from safediff.models.patch import unet_sha256
from safediff.policy.plan import Plan
from safediff.sample.shards import ALONE, Shards
from safediff.verify.verification import Verification
from safediff.workflow.baseline import held_against
from safediff.workflow.engines import ENGINE
from safediff.workflow.erase import Pictures
from safediff.workflow.evidence import report_data, write_reports
from safediff.workflow.plan_gate import open_plan_of
from safediff.workflow.proofs import prove_base, prove_plan, say_device
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.subject import base_beside, drawn_alike, engine_backbone, open_subject
from safediff.workflow.ui import Ui


def verify(
    plan: Plan,
    model: str,
    revision: str | None,
    out: Path,
    ui: Ui,
    baseline: Baseline | None = None,
    shards: Shards = ALONE,
    plan_file: Path | None = None,
) -> list[GateReport]:
    """Measure ``model``, and its engine if it has one, on the plan's checks; write the reports.

    ``plan_file``, a plan of the release ``model``, takes the place of its ONNX engine.

    With a baseline, each report has a row that says whether it became worse. Several processes
    share the drawing; process 0 decides and writes.

    Raises:
        UsageError: there is no such model, the plan is none of it, it comes with another scheduler
            than the base and the policy names none, or ``out`` holds another verification.
        Inconclusive: a judge is missing; the model cannot be loaded or does not match its
            checksums; its engine holds other weights than its PyTorch UNet.
    """
    judges = prove_plan(plan)
    planned = None if plan_file is None else open_plan_of(Path(model), plan_file)
    scheduler = plan.model.scheduler
    subject = open_subject(model, revision, plan.model.dtype, scheduler)
    base = base_beside(subject, plan.model)
    say_device(base, ui)
    *_, own = subject.models.values()
    torch_model = drawn_alike(own, base, scheduler)
    prove_base(plan, base, judges, ui, exports=False)
    if subject.engine is not None:
        verify_identity(subject.engine / "model.onnx", torch_model.denoiser.state_dict())
    reports, run = [], RunFolder(out)
    pictures = Pictures(ui, plan)
    hashes = {"base": unet_sha256(base.denoiser), "unet": unet_sha256(torch_model.denoiser)}
    with Verification(plan, base, hashes["base"], out, pictures, shards) as verification:
        report, album = verification.measure("model", torch_model, hashes)
        reports.append(report)
        albums = [verification.base_album, album]
        checks: Sequence[CheckResult] = ()
        engine = engine_backbone(torch_model, subject.engine, torch.get_num_threads())
        name, weights = ENGINE, ""
        if planned is not None and plan_file is not None:
            engine, checks = drawn_alike(planned.backbone, base, scheduler), planned.checks
            name, weights = plan_file.name, planned.sha256
        elif subject.engine is not None:
            weights = initializers_sha256(subject.engine / "model.onnx")
        if engine is not None:
            hashes_of = {"base": hashes["base"], "engine": weights}
            report, album = verification.measure(name, engine, hashes_of, extra=checks)
            reports.append(report)
            albums.append(album)
        if shards.leads:
            if baseline is not None:
                reports = held_against(baseline, plan, reports, out)
            draws = verification.erased_draws(), verification.kept
            write_reports(run, reports, report_data(plan, reports, albums, None, *draws))
        shards.wait()
    return reports
