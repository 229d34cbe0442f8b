"""Teacher and student of SDD over training: what is erased, what is kept, at equal steps.

The SDD paper releases the teacher, an average of the student's weights. Both are measured here by
the policy's own erasure and retention checks at the same checkpoints of one run, on pictures with a
seed that the policy does not use, and drawn as two curves each; so are FID and LPIPS of the kept
pictures against the base's. The published presets train several times longer and move slowly, so
they are measured at fewer checkpoints.

    python benchmarks/ema_curves.py --out benchmarks/ema_demo-weapons.json
    python benchmarks/ema_curves.py --preset paper --out benchmarks/ema_paper_demo-weapons.json
    python benchmarks/ema_curves.py --preset repo --out benchmarks/ema_repo_1e-5_demo-weapons.json
"""

import argparse
import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from torch import Tensor  # noqa: E402

from safediff.environment import environment  # noqa: E402
from safediff.erase.methods import resolve  # noqa: E402
from safediff.erase.params import PRESETS, DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.models.load import load_backbone  # noqa: E402
from safediff.models.patch import unet_sha256  # noqa: E402
from safediff.policy.load import load_plan  # noqa: E402
from safediff.policy.plan import Plan, QualityCheck  # noqa: E402
from safediff.report.scales import Scale, nice_ticks  # noqa: E402
from safediff.verify.verification import Verification  # noqa: E402
from safediff.workflow.compare import NO_LIMIT  # noqa: E402

Json = dict[str, Any]
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760.0, 56.0, 190.0, 40.0, 48.0
RATES_PX, DISTANCE_PX, BETWEEN_PX = 292.0, 110.0, 30.0
POINTS, PUBLISHED_POINTS = 6, 3
DISTANCES = ("fid", "lpips")
INK = "#1b1b1f"
COLOURS = ("#b3261e", "#0b6bcb", "#0a7d3f", "#8a5a00")


def main() -> None:
    """Train once, measure both at every checkpoint, write the numbers and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, default=Path("policies/demo-weapons.yaml"))
    parser.add_argument(
        "--preset", choices=PRESETS["sdd"], help="another preset, without the policy's options"
    )
    parser.add_argument("--set", type=json.loads, default={}, metavar="{...}", help="knobs")
    parser.add_argument(
        "--points",
        type=int,
        help=f"checkpoints; {POINTS}, or {PUBLISHED_POINTS} of a published preset",
    )
    parser.add_argument("--at", type=int, nargs="+", help="the checkpoints' steps themselves")
    parser.add_argument("--picture-seed", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, help="an SVG file")
    args = parser.parse_args()
    plan = load_plan(args.policy)
    preset, options = args.preset or plan.erase.preset, {} if args.preset else plan.erase.options
    params = resolve("sdd", preset, {**options, **args.set})
    assert isinstance(params, DistilParams)
    num_points = args.points or (PUBLISHED_POINTS if preset in ("paper", "repo") else POINTS)
    at = args.at or [round(params.num_steps * (i + 1) / num_points) for i in range(num_points)]
    plan = measured(plan, args.picture_seed)
    result: Json = {
        "policy": plan.name,
        "preset": preset,
        "settings": asdict(params),
        "picture_seed": args.picture_seed,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "points": curves(plan, params, at),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.figure:
        args.figure.write_text(figure(result))


def measured(plan: Plan, picture_seed: int) -> Plan:
    """The plan's rates and the two distances, on other pictures, without attacks."""
    given = {check.metric: check for check in plan.verify.quality}
    quality = tuple(
        given.get(metric, QualityCheck(metric=metric, limit=NO_LIMIT, line=0))
        for metric in DISTANCES
    )
    sampling = replace(plan.verify.sampling, seed=picture_seed)
    verify = replace(plan.verify, sampling=sampling, quality=quality, attacks=())
    return replace(plan, verify=verify)


def curves(plan: Plan, params: DistilParams, at: Collection[int]) -> list[Json]:
    """Both models after the steps ``at``, with the UNet passes that led there."""
    base = load_backbone(plan.model)
    trainer = DistilTrainer(base, plan.concepts, plan.erase.keep, params, plan.erase.seed)
    points: list[Json] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Verification(plan, base, unet_sha256(base.denoiser), Path(folder)) as verification,
    ):

        def measure(role: str, step: int, values: Sequence[Tensor]) -> Json:
            weights = trainer.student.weights([value.detach() for value in values])
            # the same object would lend the student's later weights to the teacher's pictures
            model = trainer.seen({name: w.detach().clone() for name, w in weights.items()})
            subject = f"{role} {step}"
            report, _ = verification.measure(subject, model, {"unet": subject}, decides=False)
            return {
                result.id: {"estimate": result.estimate, "lower": result.lower}
                | {"upper": result.upper, "n": result.num_samples}
                for result in report.results
                if result.kind in ("erasure", "retention", "quality")
            }

        def on_step(info: StepInfo) -> None:
            step = info.step + 1
            if step in at:
                point = {
                    "step": step,
                    "passes": trainer.progress.num_passes,
                    "teacher": measure("teacher", step, trainer.teacher),
                    "student": measure("student", step, [*trainer.student.values]),
                }
                points.append(point)
                print(step, json.dumps(point), flush=True)

        trainer.run(on_step)
    return points


def figure(result: Mapping[str, Any]) -> str:
    """Over steps: rates, then each distance on a scale of its own; solid the teacher."""
    points = result["points"]
    found = points[0]["teacher"]
    rates = [id for id in found if id == "erasure/all" or id.startswith("retention/")]
    right, bottom = WIDTH - RIGHT, TOP + RATES_PX
    x = Scale(0.0, float(points[-1]["step"]), LEFT, right)
    y = Scale(0.0, 1.1, bottom, TOP)
    parts = [_text(LEFT, 22, f"{result['policy']}, SDD preset {result['preset']}", "start", INK)]
    parts += _grid(y, right, (0, 0.2, 0.4, 0.6, 0.8, 1.0))
    for row, (id, colour) in enumerate(zip(rates, COLOURS, strict=False)):
        name = "erased concepts" if id == "erasure/all" else id.partition("/")[2]
        parts += _lines(points, id, x, y, colour)
        parts.append(_text(right + 14, TOP + 16 + 20 * row, name, "start", colour))
    key = TOP + 26 + 20 * len(rates)
    parts.append(_text(right + 14, key, "— teacher   - - student", "start"))
    for metric in DISTANCES:
        id, top = f"quality/{metric}", bottom + BETWEEN_PX
        if id not in found:  # a file from before they were kept
            continue
        bottom = top + DISTANCE_PX
        values = [p[role][id]["estimate"] or 0.0 for p in points for role in ("teacher", "student")]
        y = Scale(0.0, max(*values, 1e-6) * 1.1, bottom, top)
        parts += _grid(y, right, [t for t in nice_ticks(0.0, y.high, 3) if y.holds(t)])
        parts += _lines(points, id, x, y, INK)
        parts.append(_text(right + 14, top + 16, metric.upper(), "start", INK))
    ticks = [t for t in nice_ticks(0.0, x.high) if x.holds(t)]
    parts += [_text(x(t), bottom + 18, f"{t:g}", "middle") for t in ticks]
    height = bottom + BOTTOM
    parts.append(_text((LEFT + right) / 2, height - 10, "optimiser steps", "middle"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" '
        f'font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="{WIDTH:g}" height="{height:g}" fill="white"/>' + "".join(parts) + "</svg>\n"
    )


def _grid(y: Scale, right: float, ticks: Sequence[float]) -> list[str]:
    return [
        f'<line x1="{LEFT}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="#e3e3e8"/>'
        + _text(LEFT - 8, y(t) + 4, f"{t:g}", "end")
        for t in ticks
    ]


def _lines(points: Sequence[Json], id: str, x: Scale, y: Scale, colour: str) -> list[str]:
    """The teacher's curve and, dashed, the student's."""
    found = []
    for role, dash in (("teacher", ""), ("student", ' stroke-dasharray="5 4"')):
        line = " ".join(f"{x(p['step']):.1f},{y(p[role][id]['estimate'] or 0):.1f}" for p in points)
        found.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
    return found


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#6a6a72") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"


if __name__ == "__main__":
    main()
