"""The second environment: its pins fit the extra, and both test folders stay apart."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)


def test_the_extras_are_pinned() -> None:
    found = pins("constraints-metrics.txt")
    extras = PROJECT["project"]["optional-dependencies"]
    for entry in (*extras["metrics"], *extras["nudenet"]):
        requirement = Requirement(entry)
        assert found[requirement.name] in requirement.specifier, entry


def test_only_torch_is_pinned_twice() -> None:
    """The Makefile takes the first environment's pins, less torch, and adds those of the extra."""
    assert pins("constraints.txt").keys() & pins("constraints-metrics.txt").keys() == {"torch"}
    rule = (ROOT / "Makefile").read_text("utf-8")
    assert "sed '/^torch==/d' constraints.txt | cat - constraints-metrics.txt" in rule


def test_the_first_environment_collects_no_test_of_the_extra() -> None:
    """They import packages that it lacks."""
    assert PROJECT["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]
    extra = re.compile(r"^(from|import) (torch_fidelity|lpips|torchvision|skimage)\b", re.MULTILINE)
    found = {p.parent.name for p in ROOT.glob("tests*/*.py") if extra.search(p.read_text("utf-8"))}
    assert found == {"tests_metrics"}
