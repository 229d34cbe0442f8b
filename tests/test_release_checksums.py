"""Every change of a released file is found and named."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from safediff.errors import UsageError
from safediff.release.checksums import (
    SIGNATURE_NAME,
    SUMS_NAME,
    sha256_file,
    verify_checksums,
    write_checksums,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.onnx").write_bytes(b"graph")
    (tmp_path / "README.md").write_text("card")
    write_checksums(tmp_path)
    return tmp_path


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_an_untouched_folder_passes(folder: Path) -> None:
    verify_checksums(folder)
    (folder / SIGNATURE_NAME).write_text("signed later")
    verify_checksums(folder)
    subprocess.run(["sha256sum", "--strict", "--status", "-c", SUMS_NAME], cwd=folder, check=True)


CHANGES: dict[str, Callable[[Path], object]] = {
    "unet/model.onnx differs": lambda f: (f / "unet" / "model.onnx").write_bytes(b"graqh"),
    "README.md is missing": lambda f: (f / "README.md").unlink(),
    "unet/extra.bin is not listed": lambda f: (f / "unet" / "extra.bin").touch(),
    "link is not listed": lambda f: (f / "link").symlink_to("/nowhere"),
}


@pytest.mark.parametrize("problem", CHANGES)
def test_each_change_is_named(folder: Path, problem: str) -> None:
    CHANGES[problem](folder)
    with pytest.raises(UsageError, match=f"does not match its SHA256SUMS: {problem}$"):
        verify_checksums(folder)


def test_further_changes_are_counted(folder: Path) -> None:
    for change in CHANGES.values():
        change(folder)
    with pytest.raises(UsageError, match=r"README\.md is missing \(and 3 more\)$"):
        verify_checksums(folder)


def test_a_listed_file_outside_the_folder_is_never_read(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("x")
    with (folder / SUMS_NAME).open("a") as file:
        file.write(f"{sha256_file(secret)}  ../secret\n")
    with pytest.raises(UsageError, match=r"\.\./secret is missing"):
        verify_checksums(folder)


def test_a_broken_list_is_refused(folder: Path) -> None:
    with (folder / SUMS_NAME).open("a") as file:
        file.write("not a sum\n")
    with pytest.raises(UsageError, match="SHA256SUMS:3: not a line of sha256sum: 'not a sum'"):
        verify_checksums(folder)
    (folder / SUMS_NAME).unlink()
    with pytest.raises(UsageError, match="no readable list of checksums"):
        verify_checksums(folder)
