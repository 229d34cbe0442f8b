"""Folders that appear whole or not at all."""

import os
import sys
from pathlib import Path

import pytest

from safediff import folders
from safediff.errors import Inconclusive, UsageError
from safediff.folders import new_folder


def is_ours(folder: Path) -> bool:
    return (folder / "marker").exists()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"
    with new_folder(target, is_ours, "a thing") as temporary:
        (temporary / "marker").write_text("1")
        assert not target.exists()
    assert names(target) == ["marker"]
    assert names(target.parent) == ["out"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_an_earlier_one_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()  # an empty one first
    for content in ("old", "new"):
        with new_folder(target, is_ours, "a thing") as temporary:
            (temporary / "marker").write_text(content)
            (temporary / content).touch()
    assert names(target) == ["marker", "new"]
    assert names(tmp_path) == ["out"]


def replaced(target: Path) -> None:
    for content in ("old", "new"):
        with new_folder(target, is_ours, "a thing") as temporary:
            (temporary / "marker").write_text(content)


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="Linux alone swaps two names in one step; how others do it is tested everywhere",
)
def test_the_name_is_never_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved_aside(*paths: object) -> None:
        raise KeyboardInterrupt  # a kill here would leave no folder under the name

    monkeypatch.setattr(os, "replace", moved_aside)
    replaced(tmp_path / "out")
    assert (tmp_path / "out" / "marker").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_where_two_folders_cannot_change_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    replaced(tmp_path / "out")
    assert (tmp_path / "out" / "marker").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_failure_leaves_the_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "marker").write_text("old")

    def interrupted() -> None:
        with new_folder(target, is_ours, "a thing") as temporary:
            (temporary / "marker").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "marker").read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_foreign_things_are_left_alone(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("mine")
    with (
        pytest.raises(UsageError, match="exists and is not a thing"),
        new_folder(target, is_ours, "a thing"),
    ):
        pass
    assert names(tmp_path) == ["out"]
    assert target.is_file() or names(target) == ["thesis.txt"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(Inconclusive, match=r"a thing could not be written \(No space left"),
        new_folder(tmp_path / "out", is_ours, "a thing"),
    ):
        raise OSError(28, os.strerror(28))
    assert names(tmp_path) == []
