"""``safediff init``: what it writes, what it leaves alone, and that its workflow runs."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_policy import environment, finished, safediff, write_policy

from safediff import __version__
from safediff.cli import init as verb
from safediff.errors import UsageError
from safediff.policy.load import load_plan

NOTE = "note: set the install line of safediff.yml to your checkout or wheel\n"
WRITTEN = ["policies/starter.yaml", ".github/workflows/safediff.yml"]


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def workflow_in(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((folder / WRITTEN[1]).read_text("utf-8"))
    return loaded


def test_it_writes_a_policy_and_a_workflow(tmp_path: Path) -> None:
    done = safediff("init", "new/repo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, NOTE)
    assert done.stdout.splitlines() == [f"new/repo/{name}" for name in WRITTEN]
    folder = tmp_path / "new" / "repo"
    assert files_in(folder) == sorted(WRITTEN)
    plan = load_plan(folder / WRITTEN[0])
    assert plan.name == "starter"
    assert plan.notes == ()
    assert plan.num_images <= 420
    assert f'"safediff=={__version__}"' in (folder / WRITTEN[1]).read_text("utf-8")


def test_here_is_the_default(tmp_path: Path) -> None:
    assert safediff("init", cwd=tmp_path).returncode == 0
    assert files_in(tmp_path) == sorted(WRITTEN)


@pytest.mark.parametrize("taken", WRITTEN)
def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(parents=True)
    (tmp_path / taken).write_text("mine", encoding="utf-8")
    done = safediff("init", tmp_path)
    assert done.returncode == 2
    line = f"error: {tmp_path / taken}: exists already; nothing was written"
    assert done.stderr.splitlines()[0] == line
    assert files_in(tmp_path) == [taken]
    assert (tmp_path / taken).read_text("utf-8") == "mine"


def test_where_one_file_cannot_be_written_none_is_left(tmp_path: Path) -> None:
    (tmp_path / ".github").write_text("a file, not a folder", encoding="utf-8")
    done = safediff("init", tmp_path)
    assert done.returncode == 2
    assert f"error: {tmp_path / '.github'}: is a file, not a folder\n  next: " in done.stderr
    assert files_in(tmp_path) == [".github"]
    assert not (tmp_path / "policies").exists()


def test_folders_that_were_there_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policies").mkdir()
    written = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if path.name == "safediff.yml":
            raise OSError(28, "No space left on device", str(path))
        return written(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match=r"safediff\.yml: cannot be written \(No space left"):
        verb.init(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["policies"]
    assert files_in(tmp_path) == []


def test_a_file_is_no_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="afile: is a file, not a folder"):
        verb.init(tmp_path / "afile")
    with pytest.raises(UsageError, match="cannot be written"):
        verb.init(Path("/proc/nowhere"))


def test_the_install_line_is_pointed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.init(tmp_path)
    assert capsys.readouterr().err == NOTE


def test_the_workflow_is_careful(tmp_path: Path) -> None:
    verb.init(tmp_path)
    workflow = workflow_in(tmp_path)
    job = workflow["jobs"]["gate"]
    assert workflow["permissions"] == {"contents": "read"}
    assert job["permissions"] == {"contents": "read", "security-events": "write"}
    for step in job["steps"]:
        assert "${{" not in step.get("run", "")
        if "uses" in step:
            assert len(step["uses"].partition("@")[2]) == 40
    uploads = [s for s in job["steps"] if "upload" in s.get("uses", "")]
    assert len(uploads) == 2
    assert all(step["if"].startswith("always()") for step in uploads)


def test_the_run_is_kept_whatever_comes_of_it(tmp_path: Path) -> None:
    verb.init(tmp_path)
    steps = workflow_in(tmp_path)["jobs"]["gate"]["steps"]
    (erase,) = [i for i, step in enumerate(steps) if step.get("id") == "erase"]
    restore, save = steps[erase - 1], steps[erase + 1]
    assert [s["uses"].partition("@")[0] for s in steps if "cache" in s.get("uses", "")] == [
        "actions/cache/restore",
        "actions/cache/save",
    ]
    assert "actions/cache/restore@" in restore["uses"]
    assert "if" not in restore
    assert save["if"] == "always() && steps.erase.outcome != 'skipped'"
    assert restore["with"]["path"] == save["with"]["path"] == "run"
    assert restore["with"]["key"] == save["with"]["key"]
    prefix = f"safediff-{__version__}-${{{{ hashFiles('policies/**') }}}}-"
    assert restore["with"]["restore-keys"] == prefix
    own = "${{ github.run_id }}-${{ github.run_attempt }}"
    assert restore["with"]["key"] == prefix + own


def run_lines(step: dict[str, Any], folder: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """As a runner does: the script in a file, the first failing command ends it."""
    script = folder / ".step.sh"
    script.write_text(step["run"], encoding="utf-8")
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
    github = {"GITHUB_OUTPUT": str(output), "GITHUB_WORKSPACE": str(folder), "PATH": path}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
        cwd=folder,
        env=environment(**github, GITHUB_STEP_SUMMARY=str(output.with_suffix(".md"))),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_the_workflow_runs(tmp_path: Path) -> None:
    """With a smaller policy in the starter's place, and its run as the cache would restore it."""
    verb.init(tmp_path)
    write_policy(tmp_path).replace(tmp_path / WRITTEN[0])
    shutil.copytree(finished().run.path, tmp_path / "run")
    output = tmp_path / "output"
    steps = [s for s in workflow_in(tmp_path)["jobs"]["gate"]["steps"] if "run" in s]
    assert steps.pop(0)["name"] == "Install"  # this safediff is
    for step in steps:
        done = run_lines(step, tmp_path, output)
        assert done.returncode == 0, f"{step['name']}: {done.stderr}"
    assert output.read_text("utf-8") == "upload=true\n"
    assert "✓ PASS" in output.with_suffix(".md").read_text("utf-8")
    for name in ("run/report.html", "gate/report.html", "safediff.junit.xml", "safediff.sarif"):
        assert (tmp_path / name).is_file()


def test_the_workflow_fails_where_the_gate_does(tmp_path: Path) -> None:
    verb.init(tmp_path)
    output = tmp_path / "output"
    steps = {s["name"]: s for s in workflow_in(tmp_path)["jobs"]["gate"]["steps"] if "name" in s}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}", encoding="utf-8")
    done = run_lines(steps["Verify"], tmp_path, output)
    assert done.returncode == 2
    assert "error: run: this run has no patch yet" in done.stderr
    write_policy(tmp_path, ("name: bomb", "nmae: bomb")).replace(tmp_path / WRITTEN[0])
    assert run_lines(steps["Validate"], tmp_path, output).returncode == 2
    assert not output.exists()
