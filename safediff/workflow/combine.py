"""``safediff combine``: patches of several policies in one model, and each policy's gate on it.

Merged: the differences from the base are added up. Sequential: a further policy is erased from the
model that the others' patches make. Each way is a model that nobody has measured, so every policy
is verified again, on the combined weights and on their engine.

combination.json  patch.safetensors  then/  engine/  gates/<policy>/  release/
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safediff.erase.methods import find_method
from safediff.errors import Inconclusive, UsageError
from safediff.gate.verdict import CheckResult, GateReport, Verdict, combined, load_report
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.patch import (
    Patch,
    load_patch,
    merge_patches,
    save_patch,
    stack_patches,
    unet_sha256,
)
from safediff.policy.plan import Plan
from safediff.release.certificate import CERTIFICATE_NAME, Evidence
from safediff.release.checksums import sha256_file
from safediff.release.layout import write_release
from safediff.sample.shards import ALONE, Shards
from safediff.verify.verification import Verification
from safediff.workflow.engines import ENGINE, prepare_engine
from safediff.workflow.erase import TEACHER, Pictures
from safediff.workflow.evidence import certificate_evidence, cost_of, report_data, write_reports
from safediff.workflow.held_folders import held_run
from safediff.workflow.proofs import prove_base, prove_plan, say_device
from safediff.workflow.run_folder import GATES, RunFolder, write_text, writing
from safediff.workflow.safe_model import patched
from safediff.workflow.subject import COMBINATION
from safediff.workflow.training import train
from safediff.workflow.ui import Ui

COMBINED = "combined"
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A policy of the combination."""

    plan: Plan
    run: RunFolder
    """Where its patch was made."""
    alone: GateReport | None = None
    """The gate's report on its own patch, where there is one."""

    def to_json(self) -> Json:
        """Whose patch this is, as patch, certificate and ``combination.json`` name it."""
        return {
            "policy": self.plan.name,
            "policy_sha256": self.plan.source_sha256,
            "plan_sha256": self.plan.sha256,
            "patch_sha256": sha256_file(self.run.patch),
            "method": self.plan.erase.method,
            "preset": self.plan.erase.preset,
            "options": dict(self.plan.erase.options),
        }


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What one policy's gate found on the combined model."""

    part: Part
    reports: Sequence[GateReport]
    evidence: Evidence | None = None
    """Where all was met and exported."""

    @property
    def verdict(self) -> Verdict:
        """Over all deciding reports."""
        return combined(self.reports)

    def pairs(self) -> list[tuple[CheckResult | None, CheckResult]]:
        """Every gating check of the weights: on the policy's own patch, and on the combination."""
        report = self.reports[0]
        alone = {r.id: r for r in self.part.alone.results} if self.part.alone else {}
        return [(alone.get(r.id), r) for r in report.results if r.gating]


@dataclass(kw_only=True)
class Combination:
    """What came of it."""

    folder: Path
    how: str
    gates: list[Gate] = field(default_factory=list)
    released: bool = False

    @property
    def verdict(self) -> Verdict:
        """Over all policies."""
        return combined([report for gate in self.gates for report in gate.reports])


def open_part(path: Path) -> Part:
    """A finished run.

    Raises:
        UsageError: it is no run, or has no patch yet.
        Inconclusive: it cannot be read.
    """
    run = RunFolder(path)
    if not (path / "plan.json").exists() or not run.patch.exists():
        raise UsageError(
            f"{path}: is no run with a patch", "give folders that safediff erase wrote"
        )
    try:
        stored = json.loads((path / "plan.json").read_text(encoding="utf-8"))["plan"]
    except (OSError, ValueError, KeyError) as error:
        raise Inconclusive(f"{path}: not a readable plan ({error})") from error
    verdict = run.verdict(TEACHER)
    return Part(
        plan=Plan.from_json(stored, str(path / "plan.json")),
        run=run,
        alone=load_report(verdict) if verdict.exists() else None,
    )


def check_parts(parts: Sequence[Part], then: Plan | None) -> None:
    """Refuse what cannot be combined, before anything is loaded.

    Raises:
        UsageError: fewer than two policies, two of one name, or policies that ask for different
            models, guards or engines.
    """
    plans = [part.plan for part in parts] + ([then] if then else [])
    if len(plans) < 2:
        raise UsageError("one policy is no combination", "give two runs, or one run and --then")
    names = [plan.name for plan in plans]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two runs are of policy {twice!r}", "combine runs of different policies")
    first = plans[0]
    for plan in plans[1:]:
        for what in ("model", "guard", "export"):
            one, other = getattr(first, what), getattr(plan, what)
            if one != other:
                raise UsageError(
                    f"policies {first.name} and {plan.name} differ in {what}: {one}, {other}",
                    "combine policies of one base, with one guard and one engine",
                )


def combine(
    parts: Sequence[Part], then: Plan | None, folder: Path, ui: Ui, shards: Shards = ALONE
) -> Combination:
    """Make the combined model and run every policy's gate on it; what is done already is kept.

    Args:
        parts: Runs, whose patches are merged.
        then: A policy that is erased on top of them.
        folder: Of the combination; on a file system that all processes see.
        ui: Shows progress.
        shards: Processes that share training and drawing.

    Raises:
        UsageError: a patch belongs to another base, or ``folder`` holds something else.
        Inconclusive: training failed, a judge is missing, or something cannot be written.
    """
    plans = [part.plan for part in parts] + ([then] if then else [])
    judges = [prove_plan(plan) for plan in plans]
    base = load_backbone(parts[0].plan.model)
    say_device(base, ui)
    for plan, seeing in zip(plans, judges, strict=True):
        prove_base(plan, base, seeing, ui, exports=True)
    patch = merge_patches(base.denoiser, [load_patch(part.run.patch) for part in parts])
    how, every = "merged", [*parts]
    if then is not None:
        how, under = "sequential", patched(base, patch)
        with held_run(then, folder / "then", True, shards) as run:
            over = train(then, under, run, ui, shards).teacher
        if over.base_sha256 != unet_sha256(under.denoiser):
            raise UsageError(f"{folder}: holds another combination", "choose another --out")
        patch = stack_patches(patch, over)
        every.append(Part(plan=then, run=run))
    made = RunFolder(folder)
    patch = replace(patch, metadata={**patch.metadata, "parents": _parents(every)})
    if shards.leads:
        _keep(patch, made)
    shards.wait()
    model = patched(base, patch)
    found = Combination(folder=folder, how=how)
    for part in every:
        ui.say(f"policy {part.plan.name} on the combination")
        found.gates.append(_gate(part, base, model, made, every, how, ui, shards))
    found.released = all(gate.evidence is not None for gate in found.gates)
    if shards.leads:
        _write_summary(found, patch)
        if found.released:
            _release(found, model, made)
    shards.wait()
    return found


def _parents(parts: Sequence[Part]) -> str:
    return json.dumps([part.to_json() for part in parts], sort_keys=True)


def _keep(patch: Patch, made: RunFolder) -> None:
    """Write the patch; a folder of another combination is left alone.

    Raises:
        UsageError: it holds another patch.
    """
    if made.patch.exists():
        if load_patch(made.patch).metadata != patch.metadata:
            raise UsageError(f"{made.path}: holds another combination", "choose another --out")
        return
    with writing(made.path):
        made.path.mkdir(parents=True, exist_ok=True)
    save_patch(patch, made.patch)


def _gate(
    part: Part,
    base: Backbone,
    model: Backbone,
    made: RunFolder,
    every: Sequence[Part],
    how: str,
    ui: Ui,
    shards: Shards,
) -> Gate:
    """One policy's checks on the combined weights and, if it asks for one, on their engine.

    Where no engine is asked for, evidence of the weights alone is released.
    """
    plan, run = part.plan, RunFolder(made.path / GATES / part.plan.name)
    base_sha256 = unet_sha256(base.denoiser)
    hashes = {"base": base_sha256, "unet": unet_sha256(model.denoiser)}
    evidence = None
    with Verification(plan, base, base_sha256, run.path, Pictures(ui, plan), shards) as found:
        report, album = found.measure(COMBINED, model, hashes)
        reports, albums, parity = [report], [found.base_album, album], []
        if "onnx" in plan.export.targets and combined(reports).exit_code == 0:
            engine = prepare_engine(plan, base, model, made.engine, shards)
            hashes = {"base": base_sha256, "engine": engine.parity["weights_sha256"]}
            report, album = found.measure(ENGINE, engine.backbone, hashes, extra=engine.checks)
            reports.append(report)
            albums.append(album)
            parity.append(engine.parity)
        if combined(reports).exit_code == 0:
            evidence = certificate_evidence(
                plan,
                run,
                reports,
                found.judges,
                base_sha256,
                _modification(every, how, base, made),
                parity,
                [one.plan for one in every],
            )
        if shards.leads:
            draws = found.erased_draws(), found.kept
            write_reports(run, reports, report_data(plan, reports, albums, None, *draws))
    return Gate(part=part, reports=reports, evidence=evidence)


def _modification(every: Sequence[Part], how: str, base: Backbone, made: RunFolder) -> Json:
    """How the weights were changed: by all parents together."""
    papers = dict.fromkeys(find_method(part.plan.erase.method).paper for part in every)
    tensors = load_patch(made.patch).tensors.values()
    return {
        "method": "combination",
        "paper": ", ".join(papers),
        "preset": how,
        "settings": {"parents": [part.to_json() for part in every]},
        "seed": every[-1].plan.erase.seed,
        "parameters_changed": sum(tensor.numel() for tensor in tensors),
        "steps": None,
        **cost_of([part.run for part in every], base),
        "patch_sha256": sha256_file(made.patch),
    }


def _release(found: Combination, model: Backbone, made: RunFolder) -> None:
    """The model once, with a certificate and a journal of every policy; its engine, if any."""
    first, *others = found.gates
    assert first.evidence is not None
    place = "policies/{}".format
    extra = {
        "patch.safetensors": made.patch,
        "journal.jsonl": _journal(made, first),
        **{f"{place(g.part.plan.name)}/journal.jsonl": _journal(made, g) for g in others},
    }
    more: dict[str, Evidence] = {}
    for gate in others:
        folder = place(gate.part.plan.name)
        assert gate.evidence is not None
        journal = {**gate.evidence.journal, "path": f"{folder}/journal.jsonl"}
        more[f"{folder}/{CERTIFICATE_NAME}"] = replace(gate.evidence, journal=journal)
    engine = made.engine if first.evidence.deployment_parity else None
    write_release(made.release, model, first.evidence, engine=engine, extra_files=extra, more=more)


def _journal(made: RunFolder, gate: Gate) -> Path:
    return made.path / GATES / gate.part.plan.name / "journal.jsonl"


def _write_summary(found: Combination, patch: Patch) -> None:
    """``combination.json``: who was combined, and what that did to each check."""
    first = found.gates[0].part.plan.to_json()
    data = {
        "schema_version": 2,
        "how": found.how,
        "model": first["model"],
        "guard": first.get("guard"),
        "base_sha256": patch.base_sha256,
        "patch_sha256": sha256_file(RunFolder(found.folder).patch),
        "verdict": found.verdict,
        "policies": [
            {
                **gate.part.to_json(),
                "verdict": gate.verdict,
                "checks": {
                    now.id: {"alone": before and _numbers(before), "combined": _numbers(now)}
                    for before, now in gate.pairs()
                },
            }
            for gate in found.gates
        ],
    }
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    write_text(found.folder / COMBINATION, text)


def _numbers(result: CheckResult) -> Mapping[str, Any]:
    return {
        "estimate": result.estimate,
        "lower": result.lower,
        "upper": result.upper,
        "confidence": result.confidence,
        "n": result.num_samples,
        "limit": f"{result.threshold.op} {result.threshold.value:g}",
        "verdict": result.verdict,
    }
