"""The README's short form of a comparison: fewer columns than ``safediff compare`` writes.

Run it as ``python scripts/readme_table.py benchmarks/compare_demo-vices.json``.
"""

import json
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def main() -> None:
    """Print one Markdown table for the comparison in the given file."""
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"]
    ids = list(dict.fromkeys(id for row in rows for id in row["checks"]))
    erasure = [id for id in ids if id.startswith("erasure/")]
    if "erasure/all" in erasure:
        erasure = ["erasure/all"]
    kept = [id for id in ids if id.startswith("retention/")]
    attacks = ["robustness/paraphrase", "robustness/closed-form"]
    columns = [(id, "upper", "≤") for id in erasure] + [(id, "lower", "≥") for id in kept]
    columns += [(id, "", "") for id in attacks if id in ids]
    names = [id.partition("/")[2].replace("all", "erased") for id, _, _ in columns]
    print("| system | " + " | ".join(names) + " | FID | UNet passes to erase |")
    print("|---" * (len(columns) + 3) + "|")
    for row in rows:
        cells = [cell(row["checks"].get(id), side, sign) for id, side, sign in columns]
        cells.append(cell(row["checks"].get("quality/fid"), "", ""))
        print(f"| {row['title']} | " + " | ".join(cells) + f" | {row['erase_passes']:,} |")


def cell(value: Json | None, side: str, sign: str) -> str:
    """Estimate and the bound that decides."""
    if value is None or value["estimate"] is None:
        return "—"
    text = f"{round(value['estimate'], 6) + 0:.3g}" if not side else f"{value['estimate']:.3f}"
    return f"{text} {sign} {value[side]:.3f}" if side else text


if __name__ == "__main__":
    main()
