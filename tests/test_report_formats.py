"""Formats by name and by extension."""

from pathlib import Path

import pytest
from ci_examples import POLICY, passing

from safediff.errors import UsageError
from safediff.report.formats import EXTENSIONS, HTML, RENDERERS, Format, format_of


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.json", Format.JSON),
        ("a.sarif", Format.SARIF),
        ("a.sarif.json", Format.SARIF),
        ("a.junit.xml", Format.JUNIT),
        ("A.XML", Format.JUNIT),
        ("a.md", Format.MARKDOWN),
        ("a.html", HTML),
    ],
)
def test_by_extension(tmp_path: Path, name: str, format: str) -> None:
    assert format_of(tmp_path / name) == format


@pytest.mark.parametrize("name", ["a", "a.txt", "a.yaml", "json", ".json"])
def test_unknown_extensions(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="the format is unknown") as caught:
        format_of(tmp_path / name)
    assert all(f"'{extension}'" in caught.value.next_step for extension in EXTENSIONS)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        format_of(tmp_path / "a.json")
    with pytest.raises(UsageError, match="there is no folder"):
        format_of(tmp_path / "nope" / "b.json")


def test_every_format_is_rendered() -> None:
    assert set(RENDERERS) == set(Format) - {Format.RICH}
    texts = {name: render(passing(), POLICY) for name, render in RENDERERS.items()}
    assert len(set(texts.values())) == len(texts)
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in texts.values())
    assert set(EXTENSIONS.values()) - {HTML} <= set(RENDERERS)
