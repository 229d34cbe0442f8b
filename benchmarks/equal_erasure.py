r"""UNet passes until the same share of the concepts is gone: our recipe and the reference's loop.

Reads curves of ``ema_curves.py`` on one policy and the same pictures: ours, and the reference's own
reading of SDD (preset ``repo``) with its published learning rate and with others, since a rate
chosen for a model of 860 million parameters need not be the best for another. At each level, the
passes of the first checkpoint whose EMA teacher leaves no more of the concepts than that; of the
reference the better of teacher and student, and of its rates the fastest. A model that no longer
draws anything leaves nothing of the concepts either, so the reference is also asked for a
checkpoint that keeps nine tenths of the near neighbours. And for each rate: what its whole run
leaves in the end, and the passes after which ours leaves no more.

    python benchmarks/equal_erasure.py --ours benchmarks/ema_demo-weapons.json \
        --reference benchmarks/ema_repo_*.json --out benchmarks/equal_erasure.json
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]
LEVELS = (0.9, 0.5, 0.3, 0.1, 0.05)
ERASED, NEAR = "erasure/all", "retention/near neighbours"
KEPT = 0.9
"""Of the near neighbours, in the last column."""
SAME = ("policy", "picture_seed")
"""What curves must agree in to be held against one another."""


def main() -> None:
    """Compare the curves, print the table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", type=Path, required=True)
    parser.add_argument("--reference", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    ours = json.loads(args.ours.read_text())
    references = [json.loads(path.read_text()) for path in args.reference]
    for path, curve in zip(args.reference, references, strict=True):
        if differing := [key for key in SAME if curve[key] != ours[key]]:
            parser.error(f"{path}: {differing[0]} is {curve[differing[0]]!r}, not as in --ours")
    result: Json = {
        "date": datetime.now(UTC).date().isoformat(),
        **{key: ours[key] for key in SAME},
        "reference": [summary(curve) for curve in references],
        "ours": summary(ours),
        "levels": [row for level in LEVELS if (row := at_level(level, ours, references))],
        "ends": [row for curve in references for row in at_end(curve, ours)],
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(table(result)))


def summary(curve: Json) -> Json:
    """The rate, and what is left after the last checkpoint."""
    last = curve["points"][-1]
    rate = curve["settings"]["learning_rate"]
    return {"learning_rate": rate, "step": last["step"], "passes": last["passes"]} | {
        role: last[role] for role in ("teacher", "student")
    }


def at_level(level: float, ours: Json, references: Sequence[Json]) -> Json | None:
    """Where each first leaves at most ``level``; none if one of them never does."""
    mine, theirs = first(level, ours, ["teacher"]), fastest(level, references)
    if mine is None or theirs is None:
        return None
    return {
        "level": level,
        "ours": mine,
        "reference": theirs,
        "ratio": round(theirs["passes"] / mine["passes"], 2),
        "reference_keeping": fastest(level, references, KEPT),
    }


def at_end(curve: Json, ours: Json) -> list[Json]:
    """A whole run of the reference against ours: for its teacher and its student, what it leaves.

    None where it leaves everything: there is nothing to be equal to.
    """
    last, rows = curve["points"][-1], []
    for role in ("teacher", "student"):
        left = last[role][ERASED]["estimate"]
        mine = first(left, ours, ["teacher"]) if left < 1 else None
        rows.append(
            {
                "learning_rate": curve["settings"]["learning_rate"],
                "role": role,
                "left": left,
                "near neighbours": last[role][NEAR]["estimate"],
                "passes": last["passes"],
                "ours": mine,
                "ratio": round(last["passes"] / mine["passes"], 2) if mine else None,
            }
        )
    return rows


def fastest(level: float, references: Sequence[Json], kept: float = 0.0) -> Json | None:
    """The reference's earliest checkpoint over all rates, with its rate."""
    found = [
        point | {"learning_rate": curve["settings"]["learning_rate"]}
        for curve in references
        if (point := first(level, curve, ["teacher", "student"], kept))
    ]
    return min(found, key=lambda point: int(point["passes"])) if found else None


def first(level: float, curve: Json, roles: Iterable[str], kept: float = 0.0) -> Json | None:
    """The first checkpoint at which one of the roles leaves at most ``level``, keeping ``kept``."""
    for point in curve["points"]:
        reached = [
            role
            for role in roles
            if point[role][ERASED]["estimate"] <= level and point[role][NEAR]["estimate"] >= kept
        ]
        if reached:
            role = min(reached, key=lambda role: point[role][ERASED]["estimate"])
            at = {"step": point["step"], "passes": point["passes"], "role": role}
            return {**at, **point[role]}
    return None


def table(result: Json) -> list[str]:
    """Markdown: one row for each level that both reach."""
    lines = [
        "| left ≤ | reference: passes | rate | near neighbours | ours: passes | near neighbours"
        f" | ratio | reference keeping {KEPT:g} of them |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["levels"]:
        theirs, mine, keeping = row["reference"], row["ours"], row["reference_keeping"]
        near = [f"{point[NEAR]['estimate']:.3f}" for point in (theirs, mine)]
        lines.append(
            f"| {row['level']:g} | {theirs['passes']:,} | {theirs['learning_rate']:g} | {near[0]} "
            f"| {mine['passes']:,} | {near[1]} | {row['ratio']:.1f} x "
            f"| {'never' if keeping is None else format(keeping['passes'], ',')} |"
        )
    for row in result["ends"]:
        ours = "no such checkpoint" if row["ours"] is None else f"{row['ours']['passes']:,}"
        lines.append(
            f"whole run at {row['learning_rate']:g}, {row['role']}: {row['left']:.3f} left, "
            f"{row['near neighbours']:.3f} of the neighbours kept, {row['passes']:,} passes; "
            f"ours {ours}; ratio {row['ratio']}"
        )
    return lines


if __name__ == "__main__":
    main()
