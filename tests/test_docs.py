"""README and docs: commands exist with their options, files are there, the policy is valid."""

import json
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import typer

from safediff.cli.app import VERBS, build_app
from safediff.policy.load import load_plan

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SPAN = re.compile(r"`(safediff [^`]*)`|^\s*(?:run: |- run: )?(safediff .*)$", re.MULTILINE)


def commands(page: Path) -> list[str]:
    return [first or second for first, second in SPAN.findall(page.read_text(encoding="utf-8"))]


def wrong(command: str) -> str | None:
    """What a command names that the command line does not have."""
    verb = command.split()[1].strip("[]")
    if verb in ("--version", "--help"):
        return None
    if verb not in VERBS:
        return f"verb {verb}"
    group = typer.main.get_command(build_app())
    parameters = group.commands[verb].params  # type: ignore[attr-defined]
    known = {option for parameter in parameters for option in parameter.opts}
    for option in re.findall(r"(?<![\w-])--?[a-z][\w-]*", command):
        if option not in known | {"--help"}:
            return f"option {option} of {verb}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    assert [(c, wrong(c)) for c in commands(page) if wrong(c)] == []


def test_a_wrong_command_is_seen() -> None:
    assert wrong("safediff erase POLICY --resume") is None
    assert wrong("safediff erse POLICY") == "verb erse"
    assert wrong("safediff erase POLICY --resum") == "option --resum of erase"
    assert len(commands(ROOT / "README.md")) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_readmes_policy_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "version: 1" in b)
    for name in ("embedded-keep.txt", "embedded-names.txt"):
        (tmp_path / name).write_text((ROOT / "policies" / name).read_text(encoding="utf-8"))
    path = tmp_path / "policy.yaml"
    path.write_text(block, encoding="utf-8")
    assert [concept.name for concept in load_plan(path).concepts] == ["kitchen knife", "bomb"]


CONTAINERS = sorted((ROOT / "docs").glob("*.Dockerfile"))


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.name)
def test_the_container_starts_what_there_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    started = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", text, re.MULTILINE)
    assert wrong(" ".join(chain(*map(json.loads, started)))) is None
    for path in re.findall(r"/src/([\w.]+)", text):
        assert (ROOT / path).exists(), path
    (asked,) = re.findall(r"/\*\.whl\)\[([^\]]+)\]", text)
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))
    extras = {re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], e) for e in asked.split(",")}
    assert extras >= {"serve", "sign"}  # without the second no signature is checked
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras <= project["optional-dependencies"].keys()
    assert file.name in text  # in the command that builds it
    assert file.name in (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_container_is_made_of_the_package_alone() -> None:
    """Whatever else lies in a checkout (history, runs, keys) reaches no layer of the image."""
    first, *allowed = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if not line.startswith(("#", "**/"))
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    roots = {path.split("/")[0] for path in project["tool"]["setuptools"]["package-dir"].values()}
    files = {project["project"]["readme"], *project["project"]["license-files"]}
    assert first == "*"
    assert {line.removeprefix("!") for line in allowed} == {
        *(roots | files),
        *("pyproject.toml", "constraints.txt"),
    }
    for file in CONTAINERS:
        *_, last = file.read_text(encoding="utf-8").split("\nFROM ")
        assert "COPY" not in last, file.name
