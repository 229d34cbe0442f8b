"""The GitHub action and the pre-commit hook of this repository."""

import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_policy import base_pictures, environment, finished, write_policy

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
PATH = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))


def gate(
    folder: Path, first: Path | None = None, **inputs: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """The action's script as a runner runs it; returns what it says and its outputs.

    Programs in the folder ``first`` take the place of others.
    """
    step = STEPS["Verify"]
    script, output = folder / "step.sh", folder / "output"
    script.write_text(step["run"], encoding="utf-8")
    output.unlink(missing_ok=True)  # of an earlier use in the same job
    values = {name: str(ACTION["inputs"][name].get("default", "")) for name in ACTION["inputs"]}
    values |= {name.replace("_", "-"): value for name, value in inputs.items()}
    path = PATH if first is None else os.pathsep.join((str(first), PATH))
    variables = {name: values[_input_of(value)] for name, value in step["env"].items()}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
        cwd=folder,
        env=environment(
            **variables,
            RUNNER_TEMP=str(folder),
            GITHUB_OUTPUT=str(output),
            GITHUB_STEP_SUMMARY=str(folder / "summary.md"),
            GITHUB_WORKSPACE=str(folder),
            PATH=path,
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    lines = output.read_text("utf-8").splitlines() if output.exists() else []
    return done, dict(line.split("=", 1) for line in lines)


def program(folder: Path, name: str, line: str) -> Path:
    """Write a program of one line; returns its folder."""
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    return folder


def with_base(folder: Path) -> Path:
    """Let the action's folder hold the pictures of the base already."""
    out = base_pictures(folder / "safediff")
    return program(folder / "bin", "mktemp", f"echo '{out}'")


def _input_of(expression: str) -> str:
    match = re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", expression)
    assert match
    return match[1]


def test_the_action_has_what_it_promises() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert set(ACTION["inputs"]) == {
        *("policy", "model", "revision", "baseline", "fail-on", "sarif", "category", "artifact")
    }
    assert set(ACTION["outputs"]) == {"verdict", "report", "certificate"}
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.gate.outputs.{name} }}}}"
        assert f'"{name}=' in STEPS["Verify"]["run"]


def test_no_input_is_in_the_text_of_a_script_and_actions_are_pinned() -> None:
    for step in STEPS.values():
        assert "${{" not in step.get("run", "")
        if "uses" in step:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
            assert step["if"].startswith("always()")
    used = {f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]}
    names = {STEPS["Upload the report"]["with"]["name"], STEPS["Upload SARIF"]["with"]["category"]}
    assert {*STEPS["Verify"]["env"].values(), *names} == used


def test_a_second_use_in_a_job_has_nothing_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "safediff-verdict.json").write_text('{"verdict": "pass"}', encoding="utf-8")
    (tmp_path / "v.sarif").write_text('"executionSuccessful": true', encoding="utf-8")
    found = [gate(tmp_path, policy="none.yaml", model="embedded", sarif="v.sarif") for _ in "12"]
    assert [done.returncode for done, _ in found] == [2, 2]
    assert [outputs["verdict"] for _, outputs in found] == ["inconclusive"] * 2
    assert not any("upload" in outputs for _, outputs in found)
    first, second = (outputs["report"] for _, outputs in found)
    assert first != second
    assert all(path.startswith(f"{tmp_path}/safediff.") for path in (first, second))


def test_the_revision_of_a_hub_id_is_handed_on(tmp_path: Path) -> None:
    spoken = tmp_path / "spoken"
    named = program(tmp_path / "bin", "safediff", f"printf '%s\\n' \"$@\" > '{spoken}'")
    gate(tmp_path, named, policy="p.yaml", model="a/model", revision="0" * 40)
    words = spoken.read_text("utf-8").splitlines()
    assert words[words.index("--revision") + 1] == "0" * 40
    assert words[-3:] == ["--", "a/model", "p.yaml"]


def test_the_action_fails_where_the_policy_is_not_met(tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policies")
    baseline = str(finished().run.path)
    first = with_base(tmp_path)
    done, outputs = gate(
        tmp_path, first, policy=str(policy), model="embedded", sarif="v.sarif", baseline=baseline
    )
    assert done.returncode == 1, done.stderr
    assert "::error file=policies/small.yaml,line=" in done.stdout
    assert re.search(r"erasure/all .* worse", done.stdout)  # than the erased model was
    assert outputs == {
        "verdict": "fail",
        "report": f"{tmp_path}/safediff/report.html",
        "document": f"{tmp_path}/safediff/safediff-verdict.json",
        "upload": "true",
    }
    assert (tmp_path / "v.sarif").exists()
    assert "✗ FAIL" in (tmp_path / "summary.md").read_text("utf-8")


def test_the_action_passes_a_release_and_names_its_certificate(tmp_path: Path) -> None:
    release = str(finished().run.path / "release")
    policy = str(write_policy(tmp_path))
    done, outputs = gate(
        tmp_path, with_base(tmp_path), policy=policy, model=release, fail_on="warn"
    )
    assert done.returncode == 0, done.stderr
    assert outputs["verdict"] == "pass"
    assert outputs["certificate"] == f"{release}/safety-certificate.json"
    assert "upload" not in outputs


@pytest.mark.parametrize(
    "inputs",
    [
        {"policy": "$(touch pwned)", "model": "embedded", "sarif": "v.sarif"},
        {"policy": "p.yaml", "model": "--exit-zero", "fail_on": "never"},
    ],
)
def test_wrong_input_ends_the_action_and_is_never_a_command(
    tmp_path: Path, inputs: dict[str, str]
) -> None:
    write_policy(tmp_path).rename(tmp_path / "p.yaml")
    done, outputs = gate(tmp_path, **inputs)
    assert done.returncode == 2, done.stderr
    assert "no such" in done.stderr
    assert outputs["verdict"] == "inconclusive"
    assert "upload" not in outputs
    assert not (tmp_path / "pwned").exists()


def test_a_wrong_fail_on_is_said(tmp_path: Path) -> None:
    done, outputs = gate(tmp_path, policy="p.yaml", model="embedded", fail_on="sometimes")
    assert (done.returncode, outputs) == (2, {})
    assert done.stdout == "::error title=safediff::fail-on must be fail, warn or never\n"


def hook(*policies: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*shlex.split(HOOK["entry"]), *map(str, policies)],
        env=environment(PATH=PATH),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_hook_validates_the_files_that_it_selects(tmp_path: Path) -> None:
    assert HOOK["id"] == "safediff-validate"
    assert HOOK["language"] == "system"
    shipped = [p for p in sorted(ROOT.glob("policies/*")) if _selected(p.relative_to(ROOT))]
    assert {p.suffix for p in shipped} == {".yaml"}
    assert hook(*shipped).returncode == 0
    bad = write_policy(tmp_path, ("max_rate", "max_rte"))
    done = hook(shipped[0], bad)
    assert done.returncode == 2
    assert "unknown key 'max_rte'" in done.stderr


def _selected(path: Path) -> bool:
    return re.search(HOOK["files"], path.as_posix()) is not None


def test_the_hook_selects_policies_only() -> None:
    assert all(map(_selected, (Path("policies/a.yaml"), Path("policies/sub/a.yml"))))
    assert not any(map(_selected, (Path("policies/keep.txt"), Path("docs/a.yaml"), Path("a.yml"))))
