"""The policy's checks on an engine: drawn with it, against the base, and what failing leaves."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from safediff.errors import Inconclusive, PolicyViolated, UsageError
from safediff.export.engine_files import MODEL_NAME
from safediff.export.identity import initializers_sha256
from safediff.export.providers import drawing_provider
from safediff.export.runtime import ExportedUNet
from safediff.gate.verdict import CheckResult, GateReport, Verdict
from safediff.models.backbone import Backbone
from safediff.policy.load import load_plan
from safediff.policy.plan import Plan
from safediff.verify.verification import Verification
from safediff.workflow.engine_report import EngineReport
from safediff.workflow.engines import ENGINE
from safediff.workflow.export_source import ExportSource
from safediff.workflow.hub_prompts import with_hub_prompts

FAILED_GATE = ".gate.json"


def same_policy(source: ExportSource, policy: Path) -> Plan:
    """The policy that a model was erased by, or one of those that it combines.

    Raises:
        UsageError: it is another one.
        Inconclusive: its prompts cannot be fetched.
    """
    plan = with_hub_prompts(load_plan(policy))
    if plan.to_json() not in source.policies:
        raise UsageError(
            f"{policy}: is not the policy that {source.path} was erased by, or has changed since",
            "give that policy, or erase again",
        )
    return plan


def gates_line(source: ExportSource, gated: Sequence[GateReport]) -> str:
    """What the gates said; of several policies each by name, also where it was not measured."""
    found = {report.policy_name: report.verdict.value for report in gated}
    names = [policy["name"] for policy in source.policies]
    if len(names) == 1:
        return f"gate: {', '.join(found.values())}"
    return "gate: " + ", ".join(f"{found.get(name, 'not measured')} ({name})" for name in names)


def measure_gate(
    plan: Plan, source: ExportSource, engine: Path, measured: EngineReport
) -> GateReport:
    """The policy's checks on an engine folder.

    Raises:
        Inconclusive: the base is not known here, or there is no judge.
    """
    provider = drawing_provider()
    unet = ExportedUNet(engine, provider=provider, num_threads=torch.get_num_threads())
    compiled = source.model.with_denoiser(unet)
    sha256 = initializers_sha256(engine / MODEL_NAME)
    return gate(plan, source, compiled, sha256, measured.checks)


def gate(
    plan: Plan,
    source: ExportSource,
    compiled: Backbone,
    engine_sha256: str,
    checks: Sequence[CheckResult],
) -> GateReport:
    """The policy's checks on whatever draws, drawn anew against the base.

    Args:
        plan: The policy.
        source: The model that the engine was made of.
        compiled: Draws with the engine.
        engine_sha256: What the pictures are bound to.
        checks: Further rows, measured already.

    Raises:
        Inconclusive: the base is not known here, or there is no judge.
    """
    if source.base is None:
        raise Inconclusive(
            f"{source.path}: its base model can't be loaded here, so there is nothing to compare",
            "export where the base model is",
        )
    hashes = {"base": source.base_sha256, "engine": engine_sha256}
    with (
        tempfile.TemporaryDirectory() as work,
        Verification(plan, source.base, source.base_sha256, Path(work)) as verification,
    ):
        return verification.measure(ENGINE, compiled, hashes, extra=checks)[0]


def require_met(gated: GateReport, folder: Path) -> None:
    """An engine that failed its gate leaves its report, and nothing that could be served.

    Raises:
        PolicyViolated: the policy is not met.
        Inconclusive: that could not be decided.
    """
    told = folder.with_name(f"{folder.name}{FAILED_GATE}")
    told.unlink(missing_ok=True)
    if gated.verdict.exit_code == 0:
        return
    told.parent.mkdir(parents=True, exist_ok=True)
    told.write_text(json.dumps(gated.to_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    name, next_step = gated.policy_name, f"read {told}"
    if gated.verdict is Verdict.FAIL:
        raise PolicyViolated(f"{folder}: not written, policy {name} is not met", next_step)
    raise Inconclusive(
        f"{folder}: not written, whether policy {name} is met could not be decided", next_step
    )
