"""Docs show what benchmarks print of their files, and compared systems leave nothing out."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import FOLDER, benchmark_script, script

Json = dict[str, Any]
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_cost_formula_is_told_with_its_checks() -> None:
    found = json.loads((FOLDER / "cost_model.json").read_text(encoding="utf-8"))
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    assert benchmark_script("cost_model").table(found) in page


@pytest.mark.parametrize("name", ["demo-weapons", "demo-vices"])
def test_rows_leave_nothing_out(name: str) -> None:
    """But for those that the table says are of an earlier run."""
    table = json.loads((FOLDER / f"compare_{name}.json").read_text(encoding="utf-8"))
    assert {row["id"]: found for row in newer(table) if (found := missing(row))} == {}


def test_what_a_row_leaves_out_is_seen() -> None:
    table = json.loads((FOLDER / "compare_demo-weapons.json").read_text(encoding="utf-8"))
    assert len(newer(table)) > 20
    row = next(row for row in newer(table) if row["id"] == "policy")
    checks = {name: check for name, check in row["checks"].items() if name != "quality/kid"}
    checks["quality/clip"] = row["checks"]["quality/clip"] | {"base": None}
    bare = row | {"checks": checks, "seed": None, "knobs": {}, "made_with": {}}
    assert missing(bare) == ["quality/kid", "quality/clip base", "made_with", "seed", "knobs"]


def newer(table: Json) -> list[Json]:
    earlier = table["facts"].get("rows of an earlier run", "").split(", ")
    return [row for row in table["rows"] if row["id"] not in earlier]


def missing(row: Json) -> list[str]:
    """What a reader needs to judge a row or to make it again, and what it does not say."""
    checks = row["checks"]
    found = [name for name in ("quality/fid", "quality/kid", "quality/lpips") if name not in checks]
    if "quality/kid" in checks and checks["quality/kid"]["std"] is None:
        found.append("quality/kid std")
    if checks["quality/clip"]["base"] is None:
        found.append("quality/clip base")
    found += [] if row["made_with"] else ["made_with"]
    if row["method"] is not None:
        found += [name for name in ("seed", "knobs") if row[name] in (None, {})]
    return found


@pytest.mark.parametrize("name", ["demo-weapons", "demo-vices", "demo-style"])
def test_the_readme_has_the_columns_of_its_tables(name: str) -> None:
    table = json.loads((FOLDER / f"compare_{name}.json").read_text(encoding="utf-8"))
    heading, *_ = readme_lines(table["rows"])
    assert heading in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_the_readme_shows_what_decides() -> None:
    each = [row_of("erasure/all", "erasure/drink", "erasure/small", "base/drink", "base/small")]
    heading, _, line = readme_lines(each)
    assert heading.startswith("| system | drink | small | kept | FID |")
    assert line == "| SD | 0.250 ≤ 0.500 | 0.250 ≤ 0.500 | 0.250 ≥ 0.125 | — | 1,000 |"
    # a row of an earlier version: its base rate was over all, and its limits of each
    earlier = row_of("erasure/drink", "erasure/small", "base/all")
    assert readme_lines([earlier, *each])[0] == heading
    over_all = [row_of("erasure/all", "erasure/drink", "base/all", "base/drink")]
    assert readme_lines(over_all)[0].startswith("| system | erased | kept | FID |")


def readme_lines(rows: list[Json]) -> list[str]:
    lines: list[str] = script(ROOT / "scripts" / "readme_table.py").lines(rows)
    return lines


def row_of(*checks: str) -> Json:
    value = {"estimate": 0.25, "lower": 0.125, "upper": 0.5}
    found = dict.fromkeys((*checks, "retention/kept"), value)
    return {"title": "SD", "erase_passes": 1000, "checks": found}
