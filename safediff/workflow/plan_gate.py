"""Measures policies on a plan, on the GPU that it was built for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safediff.errors import UsageError
from safediff.export.exported_unet import ExportedUNet
from safediff.export.manifest import is_exported
from safediff.export.plan_session import PlanSession
from safediff.export.plan_sidecar import read_sidecar
from safediff.export.plan_weights import prove_plan
from safediff.folders import new_folder
from safediff.gate.verdict import CheckResult, GateReport
from safediff.models.backbone import Backbone
from safediff.policy.plan import Plan
from safediff.release.certificate_schema import read_certificate
from safediff.release.checksums import read_sums
from safediff.release.copying import copy_checked, require_outside
from safediff.release.engines import added_plans, certificate_names, engine_problems
from safediff.workflow.engine_gate import gate, gates_line, require_met, same_policy
from safediff.workflow.engine_report import compare, left_of_edit
from safediff.workflow.engines import closeness, compared, edit_left
from safediff.workflow.entries import added_plan, enter, plan_engine
from safediff.workflow.export_source import ExportSource, open_source

Json = dict[str, Any]
NEXT = "build it again from the release"


def gate_plan(path: Path, plan: Path, policies: Sequence[Path], folder: Path) -> str:
    """Measure policies on a plan of a release; write a copy of the release that says so.

    Args:
        path: The release.
        plan: One of its plans.
        policies: Of the release.
        folder: The folder to write.

    Returns:
        One line.

    Raises:
        UsageError: the plan is none of the release's, a policy is another one, or ``folder`` is
            something else or lies in a release.
        Inconclusive: the plan can't be opened on this machine, or nothing could be decided.
        PolicyViolated: the plan failed a check; then ``folder`` is left as it was.
    """
    source = open_source(path)
    if source.release is None:
        raise UsageError(f"{path}: has no release, so no plan of it can be gated", NEXT)
    name, sha256 = require_plan(source.release, plan, source)
    require_outside(folder, source.release)
    plans = [same_policy(source, policy) for policy in policies]
    with new_folder(folder, is_exported, "an exported release") as out:
        copy_checked(source.release, source.stamps, out)
        gated, parity = measure_plan(plans, source, out / name, folder, sha256)
        sidecar = read_sidecar(out / name, sha256)
        left = left_of_edit(source, sidecar["precision"])
        row = added_plan(out, out / name, sidecar, parity, left)
        enter(out, source, [plan_engine(out, out / name, sidecar, gated, left)], [row])
    return f"{folder / name}: {gates_line(source, gated)}; sign {folder} so that it is served"


@dataclass(frozen=True, kw_only=True)
class PlanSubject:
    """A plan of a release, opened."""

    backbone: Backbone
    sha256: str
    checks: tuple[CheckResult, ...]
    """Measured already."""


def open_plan_of(release: Path, plan: Path) -> PlanSubject:
    """Open a plan of a release and compare it with PyTorch.

    Raises:
        UsageError: it is none of the release's.
        Inconclusive: it can't be opened on this machine.
    """
    source = open_source(release)
    if source.release is None:
        raise UsageError(f"{release}: has no release, so no plan of it can be measured", NEXT)
    name, sha256 = require_plan(source.release, plan, source)
    there = source.release / name
    compiled = plan_backbone(source, there, sha256)
    checks, _ = plan_checks(source, compiled, there)
    return PlanSubject(backbone=compiled, sha256=sha256, checks=tuple(checks))


def require_plan(release: Path, plan: Path, source: ExportSource) -> tuple[str, str]:
    """A plan's path in its release and its certified hash, after everything that files can show.

    ``plan`` may be given by that path.

    Raises:
        UsageError: it is none of the release's, or not what its certificate says.
    """
    sums = read_sums(release)
    for certified in certificate_names(sums):
        certificate = read_certificate(release / certified)
        if problems := list(engine_problems(release, certificate, sums)):
            raise UsageError(f"{release}: {problems[0]}", NEXT)
    names = {(release / row["path"]).resolve(): row["path"] for row in added_plans(certificate)}
    if (name := names.get(plan.resolve()) or names.get((release / plan).resolve())) is None:
        raise UsageError(
            f"{plan}: is no plan of {release}",
            f"name one of {', '.join(sorted(names.values())) or 'its plans, after building one'}",
        )
    there = release / name
    prove_plan(there, read_sidecar(there, sums[name]), source.model.denoiser.state_dict())
    return str(name), sums[name]


def measure_plan(
    policies: Sequence[Plan], source: ExportSource, plan: Path, folder: Path, sha256: str
) -> tuple[list[GateReport], Json]:
    """The policies' checks on a plan, and its parity with PyTorch as the certificate holds it.

    Args:
        policies: What is measured.
        source: What the plan was built from.
        plan: The plan.
        folder: Where it will lie, for messages and the report of a failure.
        sha256: What it was built or certified as; the reports are bound to it.

    Raises:
        Inconclusive: it can't be opened on this machine, or nothing could be decided.
        PolicyViolated: it failed; the report lies beside ``folder``, where nothing is written.
    """
    compiled = plan_backbone(source, plan, sha256)
    checks, parity = plan_checks(source, compiled, plan)
    gated = []
    for policy in policies:
        gated.append(gate(policy, source, compiled, sha256, checks))
        require_met(gated[-1], folder)
    return gated, parity


def plan_backbone(source: ExportSource, plan: Path, sha256: str) -> Backbone:
    """The model around a plan of that hash.

    Raises:
        UsageError: it is another one by now.
        Inconclusive: it can't be opened on this machine.
    """
    assert source.release is not None
    session = PlanSession(plan, sha256)
    return source.model.with_denoiser(ExportedUNet(source.release / "unet", session=session))


def plan_checks(
    source: ExportSource, compiled: Backbone, plan: Path
) -> tuple[list[CheckResult], Json]:
    """How near a plan is to PyTorch and what rounding left of the edit: as checks, and as data."""
    precision = read_sidecar(plan)["precision"]
    parity, survival = compare(source, compiled, precision), left_of_edit(source, precision)
    checks = [closeness(parity), *([] if survival is None else [edit_left(survival)])]
    return checks, {**compared(parity, survival, plan.name), "gate_rerun": False}
