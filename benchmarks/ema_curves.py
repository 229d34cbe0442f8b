"""Teacher and student of SDD over training: what is erased, what is kept, at equal steps.

The SDD paper releases the teacher, an average of the student's weights. Both are measured here by
the policy's own erasure and retention checks at the same checkpoints of one run, on pictures with a
seed that the policy does not use, and drawn as two curves each.

    python benchmarks/ema_curves.py --out benchmarks/ema_demo-weapons.json
    python benchmarks/ema_curves.py --preset paper --out benchmarks/ema_paper_demo-weapons.json
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
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
from safediff.erase.params import DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.models.load import load_backbone  # noqa: E402
from safediff.models.patch import unet_sha256  # noqa: E402
from safediff.policy.load import load_plan  # noqa: E402
from safediff.report.scales import Scale, nice_ticks  # noqa: E402
from safediff.verify.verification import Verification  # noqa: E402

Json = dict[str, Any]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760.0, 380.0, 56.0, 190.0, 40.0, 48.0
COLOURS = ("#b3261e", "#0b6bcb", "#0a7d3f", "#8a5a00")


def main() -> None:
    """Train once, measure both at every checkpoint, write the numbers and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, default=Path("policies/demo-weapons.yaml"))
    parser.add_argument("--preset", help="another preset of SDD, without the policy's options")
    parser.add_argument("--set", type=json.loads, default={}, metavar="{...}", help="knobs")
    parser.add_argument("--points", type=int, default=6, help="checkpoints")
    parser.add_argument("--picture-seed", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, help="an SVG file")
    args = parser.parse_args()
    plan = load_plan(args.policy)
    preset, options = args.preset or plan.erase.preset, {} if args.preset else plan.erase.options
    params = resolve("sdd", preset, {**options, **args.set})
    assert isinstance(params, DistilParams)
    sampling = replace(plan.verify.sampling, seed=args.picture_seed)
    plan = replace(plan, verify=replace(plan.verify, sampling=sampling, quality=(), attacks=()))
    result: Json = {
        "policy": plan.name,
        "preset": preset,
        "settings": asdict(params),
        "picture_seed": args.picture_seed,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "points": curves(plan, params, args.points),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.figure:
        args.figure.write_text(figure(result))


def curves(plan: Any, params: DistilParams, num_points: int) -> list[Json]:
    """Both models at ``num_points`` checkpoints, the last step among them."""
    base = load_backbone(plan.model)
    trainer = DistilTrainer(base, plan.concepts, plan.erase.keep, params, plan.erase.seed)
    at = {round(params.num_steps * (i + 1) / num_points) for i in range(num_points)}
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
                if result.kind in ("erasure", "retention")
            }

        def on_step(info: StepInfo) -> None:
            step = info.step + 1
            if step in at:
                point = {
                    "step": step,
                    "teacher": measure("teacher", step, trainer.teacher),
                    "student": measure("student", step, [*trainer.student.values]),
                }
                points.append(point)
                print(step, json.dumps(point), flush=True)

        trainer.run(on_step)
    return points


def figure(result: Mapping[str, Any]) -> str:
    """Rates over steps: solid lines the teacher, dashed ones the student."""
    points = result["points"]
    ids = [id for id in points[0]["teacher"] if id == "erasure/all" or id.startswith("retention/")]
    last, right, bottom = points[-1]["step"], WIDTH - RIGHT, HEIGHT - BOTTOM
    x, y = Scale(0.0, float(last), LEFT, right), Scale(0.0, 1.1, bottom, TOP)
    parts = [
        f'<line x1="{LEFT}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="#e3e3e8"/>'
        + _text(LEFT - 8, y(t) + 4, f"{t:g}", "end")
        for t in (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    ticks = [t for t in nice_ticks(0.0, float(last)) if t <= last]
    parts += [_text(x(t), bottom + 18, f"{t:g}", "middle") for t in ticks]
    parts += [
        _text((LEFT + right) / 2, HEIGHT - 10, "optimiser steps", "middle"),
        _text(LEFT, 22, f"{result['policy']}, SDD preset {result['preset']}", "start", "#1b1b1f"),
    ]
    for row, (id, colour) in enumerate(zip(ids, COLOURS, strict=False)):
        for role, dash in (("teacher", ""), ("student", ' stroke-dasharray="5 4"')):
            line = " ".join(
                f"{x(p['step']):.1f},{y(p[role][id]['estimate'] or 0):.1f}" for p in points
            )
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
            )
        name = "erased concepts" if id == "erasure/all" else id.partition("/")[2]
        parts.append(_text(right + 14, TOP + 16 + 20 * row, name, "start", colour))
    parts.append(_text(right + 14, TOP + 26 + 20 * len(ids), "— teacher   - - student", "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" '
        f'font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="{WIDTH:g}" height="{HEIGHT:g}" fill="white"/>' + "".join(parts) + "</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#6a6a72") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"


if __name__ == "__main__":
    main()
