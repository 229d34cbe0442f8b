"""The verb `compare`, from a policy to its files."""

import json
from pathlib import Path

import pytest
from small_policy import QUICK, write_policy
from test_compare_rows import entry

from safediff.cli import app
from safediff.compare.rows import SETS, Row
from safediff.compare.table import Comparison, to_json
from safediff.errors import UsageError
from safediff.policy.load import load_plan


def ran(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, without a process of its own: saves the import of torch."""
    monkeypatch.setattr("sys.argv", ["safediff", *map(str, arguments)])
    capsys.readouterr()
    code = app.main()
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_compare_writes_table_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, table = write_policy(tmp_path, *QUICK), tmp_path / "table.json"
    files = ("-o", table, "-o", tmp_path / "table.md", "-o", tmp_path / "tradeoff.svg")
    options = ("--rows", "uce-style", "--out", tmp_path / "out", "--quiet", *files)
    code, out, _ = ran(monkeypatch, capsys, "compare", policy, *options)
    assert code == 0
    stored = json.loads(table.read_text(encoding="utf-8"))
    assert [row["id"] for row in stored["rows"]] == ["sd", "uce-style", "policy"]
    style = stored["rows"][1]
    assert (style["method"], style["preset"]) == ("uce", "style")
    assert style["knobs"]["guide"] == "art"
    for text in (out, (tmp_path / "table.md").read_text(encoding="utf-8")):
        assert "SD (base)" in text
        assert "UCE (style)" in text
        assert "bomb ↓ (n = 6)" in text
    drawing = (tmp_path / "tradeoff.svg").read_text(encoding="utf-8")
    assert "retention, ordinary" in drawing
    added = tmp_path / "added.json"
    options = ("--rows", "uce", "--add-to", table, "--out", tmp_path / "second", "--quiet")
    code, out, _ = ran(monkeypatch, capsys, "compare", policy, *options, "-o", added)
    assert code == 0
    both = json.loads(added.read_text(encoding="utf-8"))
    assert [row["id"] for row in both["rows"]] == ["sd", "uce", "uce-style", "policy"]
    assert [row for row in both["rows"] if row["id"] != "uce"] == stored["rows"]
    assert both["facts"]["rows of an earlier run"] == "sd, uce-style, policy"
    assert set(both["paired"]) == {"sd", "uce", "uce-style"}
    assert "UCE (style)" in out
    drawn = {path.name for path in (tmp_path / "second" / "images").iterdir()}
    assert drawn == {"base", "uce"}
    again = ("--add-to", added, "--out", tmp_path / "third", "--quiet")
    monkeypatch.setattr("safediff.compare.rows.SETS", {"default": ("uce", "uce-style")})
    code, out, _ = ran(monkeypatch, capsys, "compare", policy, *again, "-o", tmp_path / "2.json")
    assert code == 0
    assert "UCE (style)" in out
    assert json.loads((tmp_path / "2.json").read_text(encoding="utf-8")) == both
    assert not (tmp_path / "third").exists()  # nothing was drawn
    code, _, err = ran(monkeypatch, capsys, "compare", policy, *again, "-o", tmp_path / "2.png")
    assert code == 2
    assert "has all these rows, so nothing is drawn" in err


@pytest.mark.parametrize(
    ("options", "more"),
    [(("--quick",), set()), (("--quick", "--rows", "esd-x-3", "--rows", "uce"), {"esd-x-3"})],
)
def test_quick_stands_for_its_rows_beside_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    more: set[str],
) -> None:
    asked: list[str] = []

    def noted(plan: object, rows: list[Row], *_: object, **__: object) -> None:
        asked.extend(row.id for row in rows)
        raise UsageError("noted")

    monkeypatch.setattr("safediff.workflow.compare.run_contest", noted)
    code, _, err = ran(monkeypatch, capsys, "compare", write_policy(tmp_path), *options, "-q")
    assert (code, err.splitlines()[0]) == (2, "error: noted")
    assert set(asked) == {*SETS["quick"]} | more


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rows", "uec"), "there is no row 'uec'; did you mean 'uce'"),
        (("-o", "table.pdf"), "-o table.pdf: unknown format"),
        (("--add-to", "none.json"), "--add-to none.json: not the JSON of a comparison"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    policy = write_policy(tmp_path)
    code, out, err = ran(monkeypatch, capsys, "compare", policy, "--out", tmp_path / "o", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "o").exists()


def test_a_row_that_is_left_out_is_not_tried_again_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, table, again = write_policy(tmp_path), tmp_path / "t.json", tmp_path / "2.json"
    before = Comparison(
        plan=load_plan(policy),
        entries=(entry("sd", "xx"), entry("policy", "x.")),
        facts={"base": "embedded"},
        left_out={"neg": "no guidance"},
    )
    table.write_text(json.dumps(to_json(before)), encoding="utf-8")
    asked: list[str] = []

    def noted(plan: object, rows: list[Row], *_: object, **__: object) -> None:
        asked.extend(row.id for row in rows)
        raise UsageError("noted")

    monkeypatch.setattr("safediff.workflow.compare.run_contest", noted)
    monkeypatch.setattr("safediff.compare.rows.SETS", {"default": ("neg",)})
    options = ("--add-to", table, "--quiet", "-o", again)
    code, _, err = ran(monkeypatch, capsys, "compare", policy, *options)
    assert (code, err, asked) == (0, "", [])
    assert json.loads(again.read_text(encoding="utf-8")) == to_json(before)
    code, _, err = ran(monkeypatch, capsys, "compare", policy, *options, "--rows", "neg")
    assert (code, err.splitlines()[0], asked) == (2, "error: noted", ["neg"])


def test_a_named_row_that_the_base_does_not_allow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = write_policy(tmp_path, ("guidance_scale: 5.0", "guidance_scale: 0.0"))
    options = ("--rows", "neg", "--quiet", "--out", tmp_path / "out")
    code, out, err = ran(monkeypatch, capsys, "compare", policy, *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: row 'neg': guard 'neg' steers guidance")
    assert len(err.splitlines()) == 2  # the second says what to do
    assert not (tmp_path / "out").exists()
