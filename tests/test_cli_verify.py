"""``safediff verify`` in processes: exit codes, what goes to stdout, stderr and files.

Where only the end matters, the measurement is replaced by reports that lie ready, and what would
import torch with it.
"""

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from ci_examples import all_verdicts, passing
from small_policy import base_pictures, command, environment, finished, safediff, write_policy

from safediff.cli import certified
from safediff.errors import MAKE_ROOM, SafediffError, UsageError
from safediff.gate.verdict import GateReport, Verdict
from safediff.release.audit import Audit
from safediff.report.formats import RENDERERS, Format
from safediff.report.json_report import render_json
from safediff.report.markdown import render_markdown
from safediff.workflow.run_folder import require_verification

UNREACHABLE = ("{base: embedded}", f"{{base: nobody/nothing, revision: {'a' * 40}}}")
PAGE = "<!doctype html>the page"

READY = f"""
import os, sys, types
from contextlib import nullcontext
from pathlib import Path
from safediff.errors import Inconclusive, Unwritten
from safediff.report.load import load_reports

def verify(plan, model, revision, folder, ui, baseline, shards, plan_file):
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("REPORTS") == "unwritten":
        error = Inconclusive("/proc/v.json: cannot be written (no space)", "free some")
        raise Unwritten(error, load_reports(Path(model)))
    (folder / "report.html").write_text({PAGE!r}, encoding="utf-8")
    return load_reports(Path(model))

def agree(what, find):
    return find()

alone = types.SimpleNamespace(leads=True, agree=agree)
for name, members in {{
    "safediff.workflow.verify": {{"verify": verify}},
    "safediff.cli.quiet_libraries": {{"quiet_libraries": lambda: None}},
    "safediff.sample.shards": {{"sharded": lambda: nullcontext(alone), "Shards": object}},
}}.items():
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)
"""

Reports = tuple[GateReport, ...]


def ending_with(*verdicts: Verdict) -> Reports:
    """A report whose last checks have these verdicts; the others passed."""
    (report,) = passing()
    kept, changed = report.results[: -len(verdicts)], report.results[-len(verdicts) :]
    results = (*kept, *(replace(r, verdict=v) for r, v in zip(changed, verdicts, strict=True)))
    return (replace(report, results=results),)


def verify(
    folder: Path, reports: Reports, *options: str | Path, **changes: str
) -> subprocess.CompletedProcess[str]:
    """The command in ``folder``, on reports that lie ready there."""
    ready = folder / "ready.json"
    ready.write_text(render_json(reports, "small.yaml"), encoding="utf-8")
    policy = write_policy(folder).name
    changes = {"GITHUB_STEP_SUMMARY": "", "GITHUB_WORKSPACE": "", **changes}
    arguments = ("verify", ready, policy, "--out", "run", *options)
    return safediff(*arguments, code=READY, cwd=folder, **changes)


@pytest.mark.parametrize(
    ("verdicts", "options", "code"),
    [
        ((Verdict.PASS,), (), 0),
        ((Verdict.WARN,), (), 0),
        ((Verdict.WAIVED,), (), 0),
        ((Verdict.FAIL,), (), 1),
        ((Verdict.INCONCLUSIVE,), (), 3),
        ((Verdict.FAIL, Verdict.INCONCLUSIVE), (), 1),
        ((Verdict.FAIL,), ("--exit-zero",), 0),
        ((Verdict.INCONCLUSIVE,), ("--exit-zero",), 3),
        ((Verdict.PASS,), ("--fail-on-warn",), 0),
        ((Verdict.WARN,), ("--fail-on-warn",), 1),
        ((Verdict.WAIVED,), ("--fail-on-warn",), 0),
        ((Verdict.WARN, Verdict.WAIVED), ("--fail-on-warn",), 1),
        ((Verdict.WARN, Verdict.INCONCLUSIVE), ("--fail-on-warn",), 3),
        ((Verdict.WARN,), ("--fail-on-warn", "--exit-zero"), 0),
        ((Verdict.FAIL,), ("--fail-on", "fail"), 1),
        ((Verdict.WARN,), ("--fail-on", "fail"), 0),
        ((Verdict.WARN,), ("--fail-on", "warn"), 1),
        ((Verdict.WAIVED,), ("--fail-on", "warn"), 0),
        ((Verdict.FAIL,), ("--fail-on", "never"), 0),
        ((Verdict.INCONCLUSIVE,), ("--fail-on", "never"), 3),
    ],
)
def test_exit_codes_follow_the_verdict(
    tmp_path: Path, verdicts: tuple[Verdict, ...], options: tuple[str, ...], code: int
) -> None:
    reports = ending_with(*verdicts)
    done = verify(tmp_path, reports, "--format", "json", "--quiet", *options)
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] == reports[0].verdict.value
    assert bool(done.stderr) == (code != 0)


def test_what_does_not_decide_does_not_decide(tmp_path: Path) -> None:
    warned = replace(ending_with(Verdict.WARN)[0], subject="student", decides=False)
    done = verify(tmp_path, (*passing(), warned), "--fail-on-warn", "-q")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nope.yaml", "embedded"), "no such policy file: embedded"),
        (("embedded", "small.yaml", "--nope"), "No such option: --nope"),
        (("embedded", "small.yaml", "--format", "pdf"), "'pdf' is not one of"),
        (("embedded", "small.yaml", "--fail-on", "sometimes"), "'sometimes' is not one of"),
        (("embedded", "small.yaml", "-o", "r.pdf"), "-o r.pdf: the format is unknown"),
        (("embedded", "small.yaml", "-o", "no/r.json"), "-o no/r.json: there is no folder no"),
        (("embedded", "bad.yaml"), "bad.yaml:3:9: error: model.bsse: unknown key 'bsse'"),
        (("embedded",), "Missing argument 'POLICY'"),
    ],
)
def test_wrong_input_ends_with_2(tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    bad = write_policy(tmp_path, ("{base: embedded}", "{bsse: embedded}"))
    bad.rename(tmp_path / "bad.yaml")
    write_policy(tmp_path)
    done = safediff("verify", *arguments, "-q", cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml", "small.yaml"]


@pytest.mark.parametrize("format", [f for f in Format if f is not Format.RICH])
def test_stdout_is_the_data_and_nothing_else(tmp_path: Path, format: Format) -> None:
    done = verify(tmp_path, all_verdicts(), "--format", format)
    assert done.stdout == RENDERERS[format](all_verdicts(), "small.yaml")
    assert done.stderr.splitlines() == [
        "note: keep: 2 texts left out (held out for a retention group)",
        "wrote run/report.html",
        "error: policy demo-weapons is not met",
        "  next: open run/report.html",
    ]


def test_the_table_is_the_default(tmp_path: Path) -> None:
    done = verify(tmp_path, all_verdicts(), "-q", COLUMNS="100")
    assert "✗ FAIL  policy demo-weapons" in done.stdout
    assert done.stdout.endswith("report   run/report.html\n")
    assert done.stderr.startswith("error: policy demo-weapons is not met\n")


def test_files_by_extension_whatever_stdout_shows(tmp_path: Path) -> None:
    names = {
        "v.json": Format.JSON,
        "v.sarif": Format.SARIF,
        "v.junit.xml": Format.JUNIT,
        "v.md": Format.MARKDOWN,
    }
    options = [part for name in (*names, "v.html") for part in ("-o", name)]
    done = verify(tmp_path, all_verdicts(), "--format", "github", *options)
    assert done.returncode == 1
    for name, format in names.items():
        text = (tmp_path / name).read_text("utf-8")
        assert text == RENDERERS[format](all_verdicts(), "small.yaml")
        assert f"wrote {name}\n" in done.stderr
    assert (tmp_path / "v.html").read_text("utf-8") == PAGE
    assert done.stdout.startswith("::error file=small.yaml,line=21,title=all/erasure::")
    ET.parse(tmp_path / "v.junit.xml")


def test_the_job_summary_is_appended_in_any_format(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    variables = {
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_SERVER_URL": "https://git.example",
        "GITHUB_REPOSITORY": "me/mine",
        "GITHUB_RUN_ID": "77",
    }
    verify(tmp_path, all_verdicts(), "--format", "json", "-q", **variables)
    text = summary.read_text("utf-8")
    assert text.startswith(f"before\n{render_markdown(all_verdicts())}")
    assert "`run/report.html`" in text
    assert text.endswith("(https://git.example/me/mine/actions/runs/77#artifacts).\n")


def test_options_come_from_the_environment(tmp_path: Path) -> None:
    done = verify(tmp_path, passing(), "-q", SAFEDIFF_VERIFY_FORMAT="json")
    assert json.loads(done.stdout)["verdict"] == "pass"


def test_a_file_that_cannot_be_written_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = verify(tmp_path, passing(), "-q", "-o", "/proc/v.json")
    assert done.returncode == 3
    assert done.stderr.startswith("error: /proc/v.json: cannot be written (")


@pytest.mark.parametrize("place", ["file", "summary", "report"])
@pytest.mark.parametrize(
    ("verdict", "options", "code"),
    [
        (Verdict.PASS, (), 3),
        (Verdict.INCONCLUSIVE, (), 3),
        (Verdict.FAIL, (), 1),
        (Verdict.FAIL, ("--exit-zero",), 3),
        (Verdict.WARN, ("--fail-on-warn",), 1),
    ],
)
def test_a_violation_stays_one_where_its_files_cannot_be_written(
    tmp_path: Path, place: str, verdict: Verdict, options: tuple[str, ...], code: int
) -> None:
    files = ("-o", "/proc/v.json") if place == "file" else ()
    places = {
        "summary": {"GITHUB_STEP_SUMMARY": "/proc/v.json"},
        "report": {"REPORTS": "unwritten"},
    }
    changes = places.get(place, {})
    done = verify(tmp_path, ending_with(verdict), "-q", *files, *options, **changes)
    assert done.returncode == code
    heads = [line for line in done.stderr.splitlines() if not line.startswith("  next: ")]
    assert heads[0].startswith("error: /proc/v.json: cannot be written (")
    assert len(heads) == (2 if code == 1 else 1)
    assert code != 1 or heads[1].startswith("error: policy demo-weapons is ")


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.WARN, 1), (Verdict.PASS, 3)])
def test_so_it_does_where_a_certificate_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, code: int
) -> None:
    found = Audit(
        certificate={"policy": {"path": "small.yaml"}, "statement": ""},
        facts={},
        problems=(),
        reports=ending_with(verdict),
        verdict=verdict,
    )
    monkeypatch.setattr(certified, "audit", lambda *_: found)
    with pytest.raises(SafediffError) as caught:
        certified.check_release(
            tmp_path,
            tmp_path,
            None,
            format=Format.JSON,
            files={Path("/proc/v.json"): "json"},
            exit_zero=False,
            fail_on_warn=True,
            quiet=True,
        )
    assert caught.value.exit_code == code
    assert code == 1 or caught.value.next_step == MAKE_ROOM  # there is nothing to go on with


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("report.html",), "exists and is not a verification"),
        (("plan.json", "journal.jsonl", "report.html"), "holds a run of safediff erase, not a"),
        (("journal.jsonl", "clock.json"), "holds a comparison of safediff compare, not a"),
    ],
)
def test_reports_of_others_are_left_alone(
    tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    (tmp_path / "run").mkdir()
    for name in names:
        (tmp_path / "run" / name).write_text("mine", encoding="utf-8")
    done = verify(tmp_path, passing(), "-q")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: run: {says}")
    assert done.stderr.endswith("\n  next: choose another --out\n")
    assert {p.read_text("utf-8") for p in (tmp_path / "run").iterdir()} == {"mine"}


def test_a_gate_of_a_combination_is_no_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gates" / "small"
    gate.mkdir(parents=True)
    (gate / "journal.jsonl").touch()
    require_verification(gate)
    (tmp_path / "patch.safetensors").touch()
    monkeypatch.chdir(gate)
    for path in (gate, Path(".")):
        with pytest.raises(UsageError, match="holds a gate of safediff combine, not a verific"):
            require_verification(path)


@pytest.mark.parametrize("name", ["", "journal.jsonl", "sessions.jsonl"])
def test_an_empty_folder_and_a_verification_are_gone_on_with(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    if name:
        (tmp_path / "run" / name).write_text("", encoding="utf-8")
    assert verify(tmp_path, passing(), "-q").returncode == 0
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    done = verify(tmp_path, passing(), "-q", "--out", "file")
    assert (done.returncode, done.stderr[:38]) == (2, "error: file: is a file, not a folder\n ")


def test_a_real_model_that_fails(tmp_path: Path) -> None:
    out = base_pictures(tmp_path / "out")
    sarif = tmp_path / "v.sarif"
    options = ("--out", out, "-q", "--format", "json", "-o", sarif)
    done = safediff("verify", "embedded", write_policy(tmp_path), *options)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] == "fail"
    results = json.loads(sarif.read_text("utf-8"))["runs"][0]["results"]
    assert "all/erasure" in {result["ruleId"] for result in results}


def test_a_real_release_that_passes(tmp_path: Path) -> None:
    out = base_pictures(tmp_path / "out")
    release = finished().run.path / "release"
    options = ("--out", out, "-q", "--format", "github")
    done = safediff("verify", release, write_policy(tmp_path), *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("✓ PASS policy small; model: ")
    assert "; onnx engine: " in done.stdout


def test_what_cannot_be_loaded_ends_with_3_and_exit_zero_does_not_hide_it(tmp_path: Path) -> None:
    policy = write_policy(tmp_path, UNREACHABLE)
    options = ("--out", tmp_path / "out", "-q", "--exit-zero", "--format", "json")
    done = safediff("verify", "embedded", policy, *options, HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error: model.base 'nobody/nothing': cannot be loaded: ")


def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    journal = tmp_path / "out" / "journal.jsonl"
    arguments = ("verify", "embedded", write_policy(tmp_path), "--out", tmp_path / "out", "-q")
    process = subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    deadline = time.monotonic() + 200
    while not journal.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=100)
    assert (process.returncode, stdout, stderr) == (130, "", "interrupted\n")
