"""``safediff verify --baseline`` on real models, in processes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_policy import finished, safediff, write_policy

from safediff.cli.against_baseline import known_baseline
from safediff.errors import UsageError
from safediff.workflow.baseline import load_baseline

# What the base model meets or is waived as well: then only the baseline can tell the two apart.
WAIVER = "{check: erasure/all, reason: to compare, owner: tests, expires: '2999-12-31'}"
LAX = ("export:", f"waivers: [{WAIVER}]\nexport:")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy, the baseline of a release, and the pictures that it took."""
    folder = tmp_path_factory.mktemp("baseline")
    write_policy(folder, LAX)
    release = finished().run.path / "release"
    done = safediff(
        *("verify", release, "small.yaml", "--out", "release", "--format", "json"),
        *("--baseline", "b.json", "--update-baseline"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "wrote b.json" in done.stderr
    assert "Against the baseline" not in done.stderr  # there was none
    return folder


def test_the_file_says_that_it_is_generated_and_holds_no_prompt(made: Path) -> None:
    text = (made / "b.json").read_text(encoding="utf-8")
    data = json.loads(text)
    assert "do not edit" in data["generated"]["note"]
    assert "--update-baseline" in data["generated"]["by"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", data["generated"]["on"])
    assert "noto style" not in text
    known = load_baseline(made / "b.json")
    assert [m.report.subject for m in known.subjects] == ["model", "onnx engine"]
    assert len(known.subjects[0].hits["erasure/all"]) == 12


def test_the_same_model_is_no_regression(made: Path) -> None:
    release = finished().run.path / "release"
    done = safediff(
        *("verify", release, "small.yaml", "--out", "release", "--format", "json"),
        *("--baseline", "b.json"),
        cwd=made,
    )
    assert done.returncode == 0, done.stderr
    rows = [r for report in json.loads(done.stdout)["reports"] for r in report["results"]]
    found = [row for row in rows if row["id"] == "baseline"]
    assert [row["verdict"] for row in found] == ["pass", "pass"]
    assert "paired, 0 worse, 0 better" in done.stderr


def test_a_regression_fails_in_every_output_though_no_limit_does(
    made: Path,
) -> None:
    options = ("--out", "embedded", "--format", "json", "-o", "v.xml", "--baseline", "b.json")
    done = safediff("verify", "embedded", "small.yaml", *options, cwd=made)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] == "fail"
    failed = [r for r in document["reports"][0]["results"] if r["verdict"] == "fail"]
    assert [row["id"] for row in failed] == ["baseline"]
    assert "erasure/all (paired, 12 prompts worse, 0 better, p 0.00" in failed[0]["message"]
    assert "onnx engine is not measured any more" in failed[0]["message"]  # it has none
    assert '<failure type="baseline"' in (made / "v.xml").read_text(encoding="utf-8")
    hidden = safediff("verify", "embedded", "small.yaml", *options, "--exit-zero", cwd=made)
    assert hidden.returncode == 0


def test_updating_shows_the_difference_and_accepts_it(made: Path) -> None:
    (made / "c.json").write_bytes((made / "b.json").read_bytes())
    options = ("--out", "embedded", "--baseline", "c.json")
    done = safediff("verify", "embedded", "small.yaml", *options, "--update-baseline", cwd=made)
    assert done.returncode == 0, done.stderr
    assert "Against the baseline" in done.stderr
    assert re.search(r"erasure/all .*worse", done.stderr)
    assert load_baseline(made / "c.json") != load_baseline(made / "b.json")
    again = safediff("verify", "embedded", "small.yaml", *options, "-q", cwd=made)
    assert (again.returncode, again.stderr) == (0, "")


def test_a_baseline_of_another_version_is_replaced(made: Path) -> None:
    data = json.loads((made / "b.json").read_text(encoding="utf-8"))
    (made / "d.json").write_text(json.dumps({**data, "schema_version": 1}), encoding="utf-8")
    options = ("--out", "embedded", "--baseline", "d.json")
    done = safediff("verify", "embedded", "small.yaml", *options, "--update-baseline", cwd=made)
    assert done.returncode == 0, done.stderr
    note = "note: d.json: baseline of version 1, expected 2; it counts as none yet\n"
    assert done.stderr.count(note) == 1
    assert "Against the baseline" not in done.stderr
    assert [m.report.subject for m in load_baseline(made / "d.json").subjects] == ["model"]


@pytest.mark.parametrize(
    "fields",
    [
        {"schema_version": 9},
        {"conditions": {}},
        {"subjects": [{"report": None, "hits": {}}]},
        {"subjects": [{"report": {"schema_version": 0}, "hits": {}}]},
    ],
)
def test_only_updating_gets_over_a_baseline_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    path = tmp_path / "b.json"
    judged = {name: {} for name in ("sampling", "judges", "thresholds", "judge_settings")}
    whole = {
        "kind": "safediff-baseline",
        "schema_version": 2,
        "conditions": {**judged, "base_sha256": ""},
        "subjects": [],
    }
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert known_baseline(path, updating=False) is not None
    path.write_text(json.dumps({**whole, **fields}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"b\.json: .*version") as caught:
        known_baseline(path, updating=False)
    assert caught.value.next_step == "measure it again with --update-baseline"
    assert known_baseline(path, updating=True) is None
    assert capsys.readouterr().err == f"note: {caught.value}; it counts as none yet\n"
    assert known_baseline(path, updating=True, quiet=True) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["{", "{}", '{"kind": "bom"}', "<<<<<<< HEAD", "[]"])
def test_updating_replaces_no_file_that_is_no_baseline(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"b\.json: is no ") as caught:
        known_baseline(path, updating=True)
    assert caught.value.next_step.startswith("name another file, or move this one away")


WITHOUT_LIBRARIES = """
from safediff.cli import quiet_libraries

def loaded():
    raise AssertionError("torch and what needs it is loaded")

quiet_libraries.quiet_libraries = loaded
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "b.json: cannot be read"),
        ("{", "b.json: is no JSON"),
        ("{}", "b.json: is no baseline of safediff"),
        ('{"kind": "safediff-baseline", "schema_version": 9}', "baseline of version 9, expected 2"),
        ('{"kind": "safediff-baseline", "schema_version": 2}', "is no baseline of this version"),
    ],
)
def test_wrong_baselines_end_with_2_before_anything_is_loaded(
    tmp_path: Path, text: str | None, says: str
) -> None:
    write_policy(tmp_path)
    if text is not None:
        (tmp_path / "b.json").write_text(text, encoding="utf-8")
    arguments = ("verify", "embedded", "small.yaml", "--out", "run", "--baseline", "b.json")
    done = safediff(*arguments, code=WITHOUT_LIBRARIES, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "run").exists()


def test_update_needs_a_file(tmp_path: Path) -> None:
    write_policy(tmp_path)
    done = safediff("verify", "embedded", "small.yaml", "--update-baseline", cwd=tmp_path)
    assert done.returncode == 2
    assert "--update-baseline needs --baseline FILE" in done.stderr


def test_a_baseline_without_a_folder_ends_with_2_before_anything_is_loaded(tmp_path: Path) -> None:
    write_policy(tmp_path)
    arguments = ("verify", "embedded", "small.yaml", "--out", "run", "--baseline", "no/b.json")
    done = safediff(*arguments, "--update-baseline", code=WITHOUT_LIBRARIES, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --baseline no/b.json: there is no folder no\n")
    assert not (tmp_path / "run").exists()
