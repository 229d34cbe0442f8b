"""What a run leaves for people: verdict files, report, certificate."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from PIL import Image
from torch import Tensor

from safediff import __version__
from safediff.erase.heard import heard_texts
from safediff.erase.methods import find_method
from safediff.errors import Inconclusive, Unwritten
from safediff.gate.accuracy import decided_by, erased_labels
from safediff.gate.cut import NUM_CUT
from safediff.gate.stats import rate
from safediff.gate.verdict import GateReport, Verdict, combined, save_report
from safediff.judge.base import Calibration, Judge
from safediff.models.backbone import Backbone
from safediff.policy.plan import Plan
from safediff.release.certificate import Evidence
from safediff.release.checksums import sha256_file
from safediff.release.guarded import guarded
from safediff.report.data import Curve, Grid, ReportData
from safediff.report.html import write_html
from safediff.report.markdown import render_markdown
from safediff.sample.draw import Draw, seed_of
from safediff.verify.accuracy import positives_by_concept
from safediff.verify.album import Album
from safediff.verify.assignments import rows_of
from safediff.verify.sessions import read_sessions
from safediff.workflow.flops import flop_estimate
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.trained_with import COST
from safediff.workflow.training import Training

ROWS_PER_GRID = 8
THUMBNAIL_PX = 192
CHOICE = "A fixed choice, evenly spaced over the prompts of the"
"""Made before any picture is looked at."""
POLICY_PROMPTS = "that of the policy and the files it names"
NOT_ASKED = Calibration(sensitivity_hits=0, num_positives=0, false_alarms=0, num_negatives=0)
"""Of a judge that looks for nothing that is erased."""
NOT_ATTACKED = (
    "No adversarial attack was run: whether an adversary can bring an erased concept back is not "
    "known from this report."
)
ATTACKED = (
    "Only the attacks in this report were run, each with the budget in its details; other attacks, "
    "a longer search and more training were not tried."
)


CUT = (
    "Some prompts are longer than the text encoder reads (num_prompts_cut in the checks' details): "
    "what stands behind the end of its window was not tested."
)


def limitations(reports: Sequence[GateReport], plan: Plan) -> tuple[str, ...]:
    """What the reports on a plan's model do not show."""
    attacked = any(result.kind == "robustness" for r in reports for result in r.results)
    cut = any(NUM_CUT in result.details for r in reports for result in r.results)
    guard = guarded(plan.to_json())
    return (
        *([guard.limitation] if guard else []),
        "Measured on the prompts, seeds, sampler and guidance of the policy; other languages, "
        "longer prompts and other settings were not tested.",
        ATTACKED if attacked else NOT_ATTACKED,
        *((CUT,) if cut else ()),
        "The judge is a model and errs; its measured sensitivity and specificity enter the bounds.",
    )


def write_reports(run: RunFolder, reports: Sequence[GateReport], data: ReportData) -> None:
    """Verdict files (JSON), report.md and report.html.

    Raises:
        Unwritten: one of them can't be written.
    """
    try:
        for report in reports:
            save_report(report, run.verdict(report.subject))
        run.write_text("report.md", render_markdown(reports))
        write_html(run.report, data)
    except Inconclusive as error:
        failed = combined(reports) is Verdict.FAIL
        raise Unwritten(error, reports, reports[0].policy_name if failed else "") from error


def report_data(
    plan: Plan,
    reports: Sequence[GateReport],
    albums: Sequence[Album],
    training: Training | None,
    erased: Sequence[Draw],
    kept: Sequence[Draw],
) -> ReportData:
    """Everything on the HTML page."""
    return ReportData(
        reports=tuple(reports),
        curves=curves(training) if training else (),
        grids=(
            _grid(plan, "Erased concepts", albums, erased, f"{CHOICE} erasure check."),
            _grid(plan, "Kept prompts", albums, kept, f"{CHOICE} retention checks."),
        ),
        limitations=limitations(reports, plan),
        training=training.facts if training else {},
    )


def curves(training: Training) -> tuple[Curve, ...]:
    """Loss and drift over the optimiser steps; none where there were no steps (closed form)."""
    steps = training.steps
    if not steps:
        return ()
    losses = {"erase": tuple((row["step"], row["erase"]) for row in steps)}
    if any(row["keep"] for row in steps):
        losses["keep"] = tuple((row["step"], row["keep"]) for row in steps)
    drift = tuple(
        (row["step"], row["null_drift"]) for row in steps if row["null_drift"] is not None
    )
    return (
        Curve(title="Loss", x_label="optimiser step", y_label="mean square", series=losses),
        Curve(
            title="Null-prompt drift",
            x_label="optimiser step",
            y_label="relative change of the empty prompt's prediction",
            series={"student": drift},
        ),
    )


def _grid(
    plan: Plan, title: str, albums: Sequence[Album], draws: Sequence[Draw], note: str
) -> Grid:
    chosen = spread(draws, ROWS_PER_GRID)
    seed, fixed = plan.verify.sampling.seed, rows_of(plan)
    columns = [album.of(chosen) for album in albums]
    rows = tuple(
        (
            f"{draw.prompt} (seed {seed_of(draw, seed, fixed)})",
            tuple(png(column[i]) for column in columns),
        )
        for i, draw in enumerate(chosen)
    )
    return Grid(title=title, columns=tuple(a.subject for a in albums), rows=rows, note=note)


def spread(draws: Sequence[Draw], most: int) -> list[Draw]:
    """A fixed choice that does not look at the pictures: evenly spaced, so all concepts appear."""
    distinct = list(dict.fromkeys(draws))
    count = min(most, len(distinct))
    return [distinct[i * len(distinct) // count] for i in range(count)]


def png(image: Tensor) -> bytes:
    """A picture (3, H, W), uint8, as PNG bytes; larger ones are reduced to a thumbnail."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def certificate_evidence(
    plan: Plan,
    run: RunFolder,
    reports: Sequence[GateReport],
    judges: Mapping[str, Judge],
    base_sha256: str,
    modified: dict[str, Any],
    parity: Sequence[dict[str, Any]],
    parents: Sequence[Plan] = (),
) -> Evidence:
    """The certificate's content apart from the released files.

    ``run`` holds the journal; ``modified`` is how the weights of hash ``base_sha256`` were changed;
    ``parents`` are the plans that they were trained by, where these are others than ``plan``.
    """
    drawn = read_sessions(run.path)
    return Evidence(
        issued_at=datetime.fromisoformat(drawn.started),
        policy={
            "name": plan.name,
            "path": plan.path,
            "sha256": plan.source_sha256,
            "version": plan.version,
            "resolved": plan.to_json(),
            "waivers": [asdict(waiver) for waiver in plan.waivers],
        },
        seeds={
            "seed": plan.verify.sampling.seed,
            "images_per_prompt": plan.verify.sampling.images_per_prompt,
        },
        base_model={
            "id": plan.model.base,
            "revision": plan.model.revision,
            "sha256": {"unet": base_sha256},
            "license": "apache-2.0" if plan.model.base == "embedded" else "other",
        },
        modification=modified,
        reports=reports,
        judges=[judge_facts(plan, name, judges[name]) for name in _judge_names(plan)],
        prompt_sets=prompt_sets(plan, parents or [plan]),
        deployment_parity=parity,
        limitations=limitations(reports, plan),
        environment=drawn.environment,
        journal={
            "path": "journal.jsonl",
            "sha256": sha256_file(run.path / "journal.jsonl"),
        },
    )


def _judge_names(plan: Plan) -> tuple[str, ...]:
    names = [concept.judge for concept in plan.concepts]
    names += [group.judge for group in plan.verify.retention]
    return tuple(dict.fromkeys(names))


def judge_facts(plan: Plan, name: str, judge: Judge) -> dict[str, Any]:
    """Who decided what, and how good it is on real pictures of the erased labels, if it has any."""
    confidence, labels = plan.verify.erasure.confidence, erased_labels(plan, name)
    card = judge.calibration(labels) if labels else NOT_ASKED
    passed = card.num_negatives - card.false_alarms
    return {
        "id": judge.name,
        "version": __version__,
        "weights_sha256": judge.weights_sha256,
        "threshold": judge.threshold,
        "decides": list(decided_by(plan, name)),
        "sensitivity": _accuracy(card.sensitivity_hits, card.num_positives, confidence),
        "by_concept": {
            concept: _accuracy(*found, confidence)
            for concept, found in positives_by_concept(plan, name, judge).items()
        },
        "specificity": _accuracy(passed, card.num_negatives, confidence),
        "calibration_sha256": hashlib.sha256(
            json.dumps(asdict(card), sort_keys=True).encode()
        ).hexdigest(),
    }


def _accuracy(hits: int, n: int, confidence: float) -> dict[str, Any]:
    found = rate(hits, n, confidence) if n else None
    return {
        "hits": hits,
        "n": n,
        "value": found.value if found else None,
        "lower": found.lower if found else None,
        "upper": found.upper if found else None,
        "confidence": confidence,
    }


def modification(plan: Plan, run: RunFolder, training: Training, base: Backbone) -> dict[str, Any]:
    """How the weights were changed, at what cost."""
    patch = training.teacher
    return {
        "method": plan.erase.method,
        "paper": find_method(plan.erase.method).paper,
        "preset": plan.erase.preset,
        "settings": asdict(training.params),
        "seed": plan.erase.seed,
        "parameters_changed": sum(t.numel() for t in patch.tensors.values()),
        "steps": len(training.steps) or None,
        **cost_of([run], base),
        "patch_sha256": sha256_file(run.patch),
    }


def cost_of(runs: Sequence[RunFolder], base: Backbone) -> dict[str, Any]:
    """What the trainings of ``runs`` took, over all their attempts and processes."""
    found = [json.loads((run.path / COST).read_text(encoding="utf-8")) for run in runs]
    passes = sum(int(cost["passes"]) for cost in found)
    device = next(base.text_encoder.parameters()).device
    return {
        "unet_sample_passes": passes,
        "seconds": sum(float(cost["seconds"]) for cost in found),
        "gpu_hours": sum(map(_process_hours, found)) if device.type == "cuda" else 0.0,
        "flop_estimate": flop_estimate(base, passes),
    }


def _process_hours(cost: Mapping[str, Any]) -> float:
    """Of every process; runs of earlier versions say how many there were at last."""
    if "process_seconds" in cost:
        return float(cost["process_seconds"]) / 3600
    return float(cost["seconds"]) * int(cost.get("processes", 1)) / 3600


def prompt_sets(plan: Plan, parents: Sequence[Plan]) -> list[dict[str, Any]]:
    """Prompt lists by hash; whether training by ``parents`` saw them."""
    heard = frozenset[str]().union(*map(heard_texts, parents))
    sets: dict[str, tuple[list[str], str]] = {}
    for concept in plan.concepts:
        texts = [p.prompt for p in concept.prompts]
        hub = concept.hub_prompts
        license = f"that of {hub.dataset}@{hub.revision}" if hub else POLICY_PROMPTS
        sets[f"erasure/{concept.name}"] = (texts, license)
    for check in plan.verify.retention:
        texts = [p.prompt for p in check.prompts]
        sets[f"retention/{check.name}"] = (texts, POLICY_PROMPTS)
    for attack in plan.verify.attacks:
        texts = [attempt.prompt for attempt in attack.attempts]
        sets[f"robustness/{attack.name}"] = (texts, POLICY_PROMPTS)
    return [
        {
            "id": name,
            "sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
            "n": len(texts),
            "license": license,
            "held_out": heard.isdisjoint(map(str.casefold, texts)),
        }
        for name, (texts, license) in sets.items()
    ]
