"""``safediff verify``: the gate on any model, against the base that the policy names."""

from pathlib import Path

import torch

from safediff.export.to_onnx import initializers_sha256, verify_identity
from safediff.gate.baseline import Baseline
from safediff.gate.verdict import GateReport
from safediff.judge.load import prove_judges
from safediff.models.load import load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.plan import Plan
from safediff.sample.shards import ALONE, Shards
from safediff.verify.verification import Verification
from safediff.workflow.baseline import held_against
from safediff.workflow.engines import ENGINE
from safediff.workflow.erase import Pictures
from safediff.workflow.evidence import report_data, write_reports
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.subject import engine_backbone, open_subject
from safediff.workflow.ui import Ui


def verify(
    plan: Plan,
    model: str,
    revision: str | None,
    out: Path,
    ui: Ui,
    baseline: Baseline | None = None,
    shards: Shards = ALONE,
) -> list[GateReport]:
    """Measure ``model``, and its engine if it has one, on the plan's checks; write the reports.

    With a baseline, each report has a row that says whether it became worse. Several processes
    share the drawing; process 0 decides and writes.

    Raises:
        UsageError: there is no such model, or ``out`` holds another verification.
        Inconclusive: a judge is missing; the model cannot be loaded or does not match its
            checksums; its engine holds other weights than its PyTorch UNet.
    """
    prove_judges(plan)
    subject = open_subject(model, revision)
    base = load_backbone(plan.model)
    *_, torch_model = subject.models.values()
    if subject.engine is not None:
        verify_identity(subject.engine / "model.onnx", torch_model.denoiser.state_dict())
    reports, run = [], RunFolder(out)
    pictures = Pictures(ui, plan)
    hashes = {"base": unet_sha256(base.denoiser), "unet": unet_sha256(torch_model.denoiser)}
    with Verification(plan, base, hashes["base"], out, pictures, shards) as verification:
        report, album = verification.measure("model", torch_model, hashes)
        reports.append(report)
        albums = [verification.base_album, album]
        engine = engine_backbone(subject, torch.get_num_threads())
        if engine is not None and subject.engine is not None:
            weights = initializers_sha256(subject.engine / "model.onnx")
            report, album = verification.measure(
                ENGINE, engine, {"base": hashes["base"], "engine": weights}
            )
            reports.append(report)
            albums.append(album)
        if shards.leads:
            if baseline is not None:
                reports = held_against(baseline, plan, reports, out)
            draws = verification.erased_draws(), verification.kept
            write_reports(run, reports, report_data(reports, albums, None, *draws))
        shards.wait()
    return reports
