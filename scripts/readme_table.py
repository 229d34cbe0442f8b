"""The README's short form of a comparison: fewer columns than ``safediff compare`` writes.

Run it as ``python scripts/readme_table.py benchmarks/compare_demo-vices.json``.
"""

import json
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]
OVER_ALL = "erasure/all"


def main() -> None:
    """Print one Markdown table for the comparison in the given file."""
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"]
    print("\n".join(lines(rows)))


def lines(rows: list[Json]) -> list[str]:
    """The table of a comparison's rows, line by line."""
    ids = list(dict.fromkeys(id for row in rows for id in row["checks"]))
    kept = [id for id in ids if id.startswith("retention/")]
    attacks = ["robustness/paraphrase", "robustness/closed-form"]
    columns = [(id, "upper", "≤") for id in deciding(rows)] + [(id, "lower", "≥") for id in kept]
    columns += [(id, "", "") for id in attacks if id in ids]
    names = ["erased" if id == OVER_ALL else id.partition("/")[2] for id, _, _ in columns]
    found = [
        "| system | " + " | ".join(names) + " | FID | UNet passes to erase |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for row in rows:
        cells = [cell(row["checks"].get(id), side, sign) for id, side, sign in columns]
        cells.append(cell(row["checks"].get("quality/fid"), "", ""))
        found.append(f"| {row['title']} | " + " | ".join(cells) + f" | {row['erase_passes']:,} |")
    return found


def deciding(rows: list[Json]) -> list[str]:
    """The erasure checks that the policy limits: one over all concepts, or one of each.

    Every row has the rate over all for comparing, but its base rate only where it is limited.
    """
    ids = dict.fromkeys(id for row in rows for id in row["checks"] if id.startswith("erasure/"))
    if any({OVER_ALL, "base/all"} <= row["checks"].keys() for row in rows):
        return [OVER_ALL]
    return [id for id in ids if id != OVER_ALL]


def cell(value: Json | None, side: str, sign: str) -> str:
    """Estimate and the bound that decides."""
    if value is None or value["estimate"] is None:
        return "—"
    text = f"{round(value['estimate'], 6) + 0:.3g}" if not side else f"{value['estimate']:.3f}"
    return f"{text} {sign} {value[side]:.3f}" if side else text


if __name__ == "__main__":
    main()
