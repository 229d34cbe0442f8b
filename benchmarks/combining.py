"""Two policies in one model, three ways: merged, sequential, joint.

Writes the joint policy and the table; the rest is done by the command line:

    safediff erase policies/demo-weapons.yaml policies/demo-vices.yaml --out runs/alone
    safediff combine runs/alone/demo-weapons runs/alone/demo-vices --out runs/merged
    safediff combine runs/alone/demo-weapons --then policies/demo-vices.yaml --out runs/sequential
    python benchmarks/combining.py --joint runs/joint.yaml
    safediff erase runs/joint.yaml --out runs/joint
    safediff verify runs/joint policies/demo-weapons.yaml --out runs/joint-demo-weapons
    safediff verify runs/joint policies/demo-vices.yaml --out runs/joint-demo-vices
    python benchmarks/combining.py --runs runs --out benchmarks/combining.json \
        --table benchmarks/combining.md
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from safediff.environment import environment
from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, load_report
from safediff.policy.load import load_plan
from safediff.report.table import deciding_bound
from safediff.report.wording import limit_text

Json = dict[str, Any]
POLICIES = Path(__file__).parents[1] / "policies"
NAMES = ("demo-weapons", "demo-vices")
WAYS = ("alone", "merged", "sequential", "joint")


def main() -> None:
    """Write the joint policy, or the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--joint", type=Path, help="write the joint policy here")
    parser.add_argument("--runs", type=Path, help="folder with the runs")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--table", type=Path, help="a Markdown file")
    args = parser.parse_args()
    if args.joint:
        args.joint.write_text(yaml.safe_dump(joint_policy(), sort_keys=False), encoding="utf-8")
    if args.runs:
        result = collect(args.runs)
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if args.table:
            args.table.write_text(markdown(result), encoding="utf-8")


def joint_policy() -> Json:
    """Concepts of both; kept is what one of them keeps and neither erases nor holds out."""
    own = [yaml.safe_load((POLICIES / f"{n}.yaml").read_text(encoding="utf-8")) for n in NAMES]
    plans = [load_plan(POLICIES / f"{name}.yaml") for name in NAMES]
    erased = {text for plan in plans for concept in plan.concepts for text in concept.erase}
    held_out = {
        text
        for policy in own
        for group in policy["verify"]["retention"]
        if isinstance(group["texts"], list)
        for text in group["texts"]
    }
    listed = [
        (POLICIES / policy["keep"]["file"]).read_text(encoding="utf-8").splitlines()
        for policy in own
    ]
    texts = dict.fromkeys(text for lines in listed for text in lines if text[:1] not in ("", "#"))
    kept = [text for text in texts if text not in erased | held_out]
    first = own[0]
    return {
        "version": 1,
        "name": "joint",
        "model": first["model"],
        "judge": first["judge"],
        "prompts": first["prompts"],
        "concepts": own[0]["concepts"] + own[1]["concepts"],
        "keep": kept,
        "erase": {
            **first["erase"],
            # as many steps as both have, at the gentler of the two settings
            "options": {**first["erase"]["options"], "num_steps": 224 + 256},
        },
        "verify": {
            "sampling": first["verify"]["sampling"],
            "erasure": first["verify"]["erasure"],
            "retention": [
                {
                    "name": "near neighbours",
                    "min_ratio": 0.8,
                    "num_prompts": 80,
                    "texts": sorted(held_out),
                }
            ],
        },
        "export": {"targets": []},
    }


def collect(runs: Path) -> Json:
    """Every way's report on every policy, where it is there."""
    found: Json = {}
    for name in NAMES:
        places = {
            "alone": runs / "alone" / name / "verdict.teacher.json",
            "merged": runs / "merged" / "gates" / name / "verdict.combined.json",
            "sequential": runs / "sequential" / "gates" / name / "verdict.combined.json",
            "joint": runs / f"joint-{name}" / "verdict.model.json",
        }
        found[name] = {
            way: told(load_report(path)) for way, path in places.items() if path.exists()
        }
    training = {
        "demo-weapons": runs / "alone" / "demo-weapons",
        "demo-vices": runs / "alone" / "demo-vices",
        "demo-vices on top": runs / "sequential" / "then",
        "joint": runs / "joint",
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "policies": found,
        "training": {
            name: json.loads((path / "training.json").read_text(encoding="utf-8"))
            for name, path in training.items()
            if (path / "training.json").exists()
        },
        "environment": environment(),
    }


def told(report: GateReport) -> Json:
    """Verdict and checks of a report."""
    shown = [r for r in report.results if r.kind in ("erasure", "retention", "quality")]
    attacks = [r for r in report.results if r.kind == "robustness" and r.num_samples]
    return {
        "verdict": report.verdict,
        "num_images": report.num_images,
        "checks": {r.id: numbers(r) for r in [*shown, *attacks]},
    }


def numbers(result: CheckResult) -> Json:
    """One check."""
    return {
        "estimate": result.estimate,
        "lower": result.lower,
        "upper": result.upper,
        "confidence": result.confidence,
        "n": result.num_samples,
        "bound": deciding_bound(result),
        "limit": limit_text(result.threshold),
        "gating": result.gating,
        "verdict": result.verdict,
    }


def markdown(result: Json) -> str:
    """One table per policy: checks against ways."""
    lines = [
        "# Two policies in one model",
        "",
        "`demo-weapons` and `demo-vices` on the embedded model; every column is measured by the",
        "policy's own gate: estimate, deciding one-sided 95 % bound, and what failed in bold.",
        "",
    ]
    for name, ways in result["policies"].items():
        shown = [way for way in WAYS if way in ways]
        lines += [
            f"## {name}",
            "",
            "| check | limit | n | " + " | ".join(shown) + " |",
            "|---" * (3 + len(shown)) + "|",
        ]
        first = ways[shown[0]]["checks"]
        for check, row in first.items():
            if not row["gating"] and not check.startswith("robustness/"):
                continue
            cells = [cell(ways[way]["checks"].get(check)) for way in shown]
            limit = row["limit"] or "none"
            lines.append(f"| {check} | {limit} | {row['n']} | " + " | ".join(cells) + " |")
        lines.append(
            "| **gate** | | | " + " | ".join(str(ways[way]["verdict"]) for way in shown) + " |"
        )
        lines.append("")
    costs = ", ".join(
        f"{name} {cost['passes']:,} passes in {float(cost['seconds']):.0f} s"
        for name, cost in result["training"].items()
    )
    lines += [f"Training: {costs}. Merging takes none.", ""]
    return "\n".join(lines)


def cell(row: Json | None) -> str:
    """Estimate and bound."""
    if row is None:
        return "—"
    text = f"{show(row['estimate'])} ({show(row['bound'])})"
    return f"**{text}**" if row["verdict"] == "fail" else text


if __name__ == "__main__":
    main()
