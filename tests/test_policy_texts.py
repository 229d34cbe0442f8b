"""Text files and CSV columns."""

from pathlib import Path

import pytest

from safediff.policy.texts import TextFileError, read_column, read_texts


def test_one_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("# head\n\n axe \nbomb # comment\naxe\n", encoding="utf-8")
    assert [(line.text, line.line) for line in read_texts(path)] == [("axe", 3), ("bomb", 4)]


def test_a_csv_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,prompt\n1,"a dog,\n  running"\n2,\n3,a cat\n4,a cat\n', encoding="utf-8")
    assert read_column(path, "prompt") == ["a dog, running", "a cat"]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("b.txt", b"", "no file 'b.txt' in .*; did you mean 'a.txt'"),
        ("a.txt", b"# nothing\n", "'a.txt' holds no text"),
        ("a.txt", b"\xff\xfe", "'a.txt' is not UTF-8 text"),
    ],
)
def test_unusable_text_files(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(TextFileError, match=message):
        read_texts(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,promt\n1,a\n", "no column 'prompt'; did you mean 'promt'"),
        ("prompt\n\n", "column 'prompt' of 'a.csv' holds no text"),
        ("", "no column 'prompt'"),
        ('prompt\n"a"b\n', "is not a CSV file"),
    ],
)
def test_unusable_csv_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(TextFileError, match=message):
        read_column(tmp_path / "a.csv", "prompt")
