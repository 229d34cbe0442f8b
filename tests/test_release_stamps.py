"""Stamps tell every change of a folder without reading its files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from safediff.errors import UsageError
from safediff.release.stamps import require_unchanged, stamps_of


def written(folder: Path) -> None:
    with (folder / "unet" / "weights").open("r+b") as file:
        file.write(b"W")


def exchanged(folder: Path) -> None:
    """By a file of the same size and time of writing."""
    file, other = folder / "unet" / "weights", folder / "other"
    times = file.stat()
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)


def folder_exchanged(folder: Path) -> None:
    """No file is touched: another folder gets the name of the first."""
    (folder / "unet").rename(folder.parent / "away")
    (folder.parent / "prepared").rename(folder / "unet")


def folder_put_back(folder: Path) -> None:
    """Another folder stood there in between."""
    folder_exchanged(folder)
    (folder / "unet").rename(folder.parent / "prepared")
    (folder.parent / "away").rename(folder / "unet")


def added(folder: Path) -> None:
    (folder / "unet" / "more").touch()


def gone(folder: Path) -> None:
    (folder / "unet" / "weights").unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in (tmp_path / "r" / "unet", tmp_path / "prepared"):
        path.mkdir(parents=True)
        (path / "weights").write_bytes(b"weights")
    return tmp_path / "r"


def test_reading_changes_nothing(folder: Path) -> None:
    stamps = stamps_of(folder)
    assert stamps.keys() == {".", "unet", "unet/weights"}
    assert (folder / "unet" / "weights").read_bytes() == b"weights"
    require_unchanged(folder, stamps)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (written, "unet/weights"),
        (exchanged, "unet/weights"),
        (folder_exchanged, "unet/weights"),
        (folder_put_back, "unet"),
        (added, "unet/more"),
        (gone, "unet/weights"),
    ],
)
def test_a_change_is_refused(folder: Path, change: Callable[[Path], None], name: str) -> None:
    stamps = stamps_of(folder)
    change(folder)
    with pytest.raises(UsageError, match=f"r: {name} was changed between its check and its") as e:
        require_unchanged(folder, stamps)
    assert "\n" not in str(e.value)


def test_several_changes_are_counted(folder: Path) -> None:
    stamps = stamps_of(folder)
    added(folder)
    gone(folder)
    with pytest.raises(UsageError, match=r"unet/more \(and 1 more\) was changed"):
        require_unchanged(folder, stamps)


def test_a_link_that_was_turned_there_and_back_is_refused(folder: Path) -> None:
    link, other = folder.parent / "current", folder.parent / "prepared"
    link.symlink_to(folder)
    stamps = stamps_of(link)
    require_unchanged(link, stamps)
    for target in (other, folder):
        link.unlink()
        link.symlink_to(target)
    with pytest.raises(UsageError, match=r"current: \. was changed"):
        require_unchanged(link, stamps)


def test_a_link_that_leads_nowhere_has_a_stamp(folder: Path) -> None:
    (folder / "unet" / "lost").symlink_to("nowhere")
    stamps = stamps_of(folder)
    (folder / "unet" / "nowhere").touch()
    with pytest.raises(UsageError, match=r"unet/lost \(and 1 more\) was changed"):
        require_unchanged(folder, stamps)


def test_a_folder_that_is_not_there_is_one_that_must_not_appear(folder: Path) -> None:
    stamps = stamps_of(folder / "later")
    require_unchanged(folder / "later", stamps)
    (folder / "later").mkdir()
    with pytest.raises(UsageError, match=r"later: \. was changed"):
        require_unchanged(folder / "later", stamps)
