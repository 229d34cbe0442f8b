"""The wheel holds every package and file; the checkout shows the same tree."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_package_directory_is_declared() -> None:
    found = {
        ".".join((package, *init.parent.relative_to(ROOT / root).parts))
        for package, root in SETUPTOOLS["package-dir"].items()
        for init in (ROOT / root).rglob("__init__.py")
        if not any(parent.is_symlink() for parent in init.parents)
    }
    assert found == set(SETUPTOOLS["packages"]) == set(SETUPTOOLS["package-dir"])


@pytest.mark.parametrize("name", ["cli", "export", "policies"])
def test_symlinks_give_the_checkout_the_same_view(name: str) -> None:
    link = ROOT / "safediff" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def test_every_data_file_is_declared() -> None:
    """What is no module must be matched by a pattern, else the wheel lacks it."""
    declared = {
        path
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in (ROOT / SETUPTOOLS["package-dir"][package]).glob(pattern)
    }
    found = {
        path
        for folder in ("safediff", "cli", "export", "policies")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert ROOT / "policies" / "demo-weapons.yaml" in found
    assert found <= declared


def test_constraints_pin_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=![;]", entry)[0].lower() for entry in wanted}
    assert names <= pinned
    assert "torch==2.13.0" in lines


def test_requirements_hold_for_the_pinned_versions() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    project = PROJECT["project"]
    for entry in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        requirement = Requirement(entry)
        assert pins[requirement.name.lower()] in requirement.specifier, entry
