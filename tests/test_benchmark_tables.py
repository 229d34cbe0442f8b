"""Docs show what benchmarks print of their committed files."""

import json
from pathlib import Path
from typing import Any

from benchmark_scripts import FOLDER, benchmark_script

Json = dict[str, Any]
DOCS = Path(__file__).parents[1] / "docs"


def test_the_cost_formula_is_told_with_its_checks() -> None:
    found = json.loads((FOLDER / "cost_model.json").read_text(encoding="utf-8"))
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    assert benchmark_script("cost_model").table(found) in page
