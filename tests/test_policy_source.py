"""YAML with positions: traps, syntax errors, files that cannot be read."""

from pathlib import Path

import pytest
from policy_examples import findings, write

from safediff.errors import PolicyError, UsageError
from safediff.policy.load import load_plan
from safediff.policy.source import read_source


def source_findings(folder: Path, text: str) -> list[str]:
    path = folder / "x.yaml"
    path.write_bytes(text.encode("utf-8"))
    source = read_source(path)
    return [str(p).splitlines()[0].removeprefix(f"{path}:") for p in sorted(source.problems)]


def refused(folder: Path, raw: bytes) -> str:
    path = folder / "x.yaml"
    path.write_bytes(raw)
    with pytest.raises(PolicyError) as caught:
        read_source(path)
    (problem,) = caught.value.problems
    return problem.splitlines()[0].removeprefix(f"{path}:")


def test_every_value_knows_the_place_of_its_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nb:\n  - c: [x, yy]\n    d: 2.5\n")
    source = read_source(path)
    assert source.data == {"a": 1, "b": ({"c": ("x", "yy"), "d": 2.5},)}
    assert source.marks[("b", 0, "d")] == (4, 5)
    assert source.marks[("b", 0, "c", 1)] == (3, 12)
    assert source.line(("b", 0, "<tag>", "d", "missing")) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: no", "1:1: error: a: YAML reads no as a boolean; quote it or write true or false"),
        ("a: On", "1:1: error: a: YAML reads On as a boolean; quote it or write true or false"),
        ("a: 1e-2", "1:1: error: a: YAML reads 1e-2 as text; write 0.01, or quote it"),
        (
            "a: 010",
            "1:1: error: a: YAML reads 010 in a special way; write a plain decimal, or quote it",
        ),
        (
            "a: 1:30",
            "1:1: error: a: YAML reads 1:30 in a special way; write a plain decimal, or quote it",
        ),
        (
            "a: .inf",
            "1:1: error: a: YAML reads .inf in a special way; write a plain decimal, or quote it",
        ),
        (
            "a: 0x1F",
            "1:1: error: a: YAML reads 0x1F in a special way; write a plain decimal, or quote it",
        ),
        ("a: !x y", "1:1: error: a: tag '!x' is not allowed"),
        ("a: 1\na: 2", "2:1: error: a: duplicate key 'a', first given on line 1"),
        ("[a]: 1", "1:1: error: a key must be text"),
        ("a: &x [1]\nb: *x", "2:4: error: alias '*x' is not allowed; write the value out"),
        ("a: &x [*x]", "1:8: error: alias '*x' is not allowed; write the value out"),
    ],
)
def test_traps_are_findings(tmp_path: Path, text: str, expected: str) -> None:
    assert source_findings(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: true", True),
        ("a: 'no'", "no"),
        ("a: '1e-2'", "1e-2"),
        ("a: 1.0e-2", 0.01),
        ("a: '010'", "010"),
        ("a: 0", 0),
        ("a: -3", -3),
        ("a: 1_000", 1000),
        ("a: 2024-01-01", "2024-01-01"),
        ("a:", None),
    ],
)
def test_plain_values_are_read_as_written(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    source = read_source(path)
    assert source.problems == []
    assert source.data == {"a": value}
    assert type(source.data["a"]) is type(value)


def test_boolean_words_are_fine_as_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("on: 1\nyes: 2\n")
    assert read_source(path).data == {"on": 1, "yes": 2}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "1:1: error: the policy is empty; expected keys such as version, name, model"),
        (
            b"# only\n",
            "1:1: error: the policy is empty; expected keys such as version, name, model",
        ),
        (b"- a", "1:1: error: the policy is not a mapping; expected keys such as version, name, "),
        (b"a: b: c", "1:5: error: mapping values are not allowed here"),
        (
            b"a:\n\tb: 1",
            "2:1: error: found character '\\t' that cannot start any token; indent wit",
        ),
        (b"a: 1\nb: \xff", "2:1: error: not UTF-8 text"),
        (b"a: 1\nbc: \x07", "2:5: error: character '\\x07' is not allowed"),
        (b"[" * 5000, "1:1: error: nested too deeply"),
        (b"a: 1\n---\nb: 2", "2:1: error: but found another document"),
    ],
)
def test_unreadable_yaml_is_one_finding(tmp_path: Path, raw: bytes, expected: str) -> None:
    assert refused(tmp_path, raw).startswith(expected)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_source(path).data == {"a": 1}


@pytest.mark.parametrize("name", ["nope.yaml", "."])
def test_missing_files_and_folders_are_usage_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_plan(tmp_path / name)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.next_step


def test_findings_show_the_line_and_a_caret(tmp_path: Path) -> None:
    path = write(tmp_path, ("max_rate", "max_rte"))
    with pytest.raises(PolicyError) as caught:
        load_plan(path)
    assert caught.value.problems[1] == (
        f"{path}:14:13: error: verify.erasure.max_rte: unknown key 'max_rte'; "
        "did you mean 'max_rate'?\n"
        "   14 |   erasure: {max_rte: 0.25, num_prompts: 18}\n"
        "      |             ^"
    )


def test_long_lines_are_cut_around_the_caret(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("a: [" + "word, " * 60 + "no, " + "word, " * 60 + "end]")
    (problem,) = read_source(path).problems
    _, shown, caret = str(problem).splitlines()
    assert len(shown) < 120
    assert shown[caret.index("^") :].startswith("no, ")


def test_one_finding_per_mistake(tmp_path: Path) -> None:
    """A trap is not reported a second time as a wrong type."""
    assert findings(tmp_path, ("max_rate: 0.25", "max_rate: 25e-2")) == [
        "14:13: error: verify.erasure.max_rate: YAML reads 25e-2 as text; write 0.25, or quote it"
    ]
    assert len(findings(tmp_path, ("num_prompts: 18", "num_prompts: 010"))) == 1
