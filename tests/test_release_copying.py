"""Copies of a checked release hold what was checked, and nothing is written into a release."""

from pathlib import Path

import pytest

from safediff.errors import UsageError
from safediff.release.checksums import write_checksums
from safediff.release.copying import copy_checked, require_outside
from safediff.release.stamps import stamps_of


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "r"
    for name in ("unet/weights", "unet/model.onnx", "tokenizer/vocab.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    write_checksums(folder)
    (folder / "model.sig").touch()
    return folder


def test_a_copy_leaves_out_what_covers_the_first(release: Path, tmp_path: Path) -> None:
    copy_checked(release, stamps_of(release), tmp_path / "copy", "model.onnx")
    files = {path for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    copied = {"unet/weights", "tokenizer/vocab.json"}
    assert files == {tmp_path / "copy" / name for name in copied}


def test_what_was_changed_after_its_check_is_not_copied(release: Path, tmp_path: Path) -> None:
    stamps = stamps_of(release)
    (release / "tokenizer" / "vocab.json").write_text("other words")
    with pytest.raises(UsageError, match=r"r: tokenizer/vocab\.json was changed between"):
        copy_checked(release, stamps, tmp_path / "copy")


def test_nothing_is_written_into_a_release(release: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(release)
    (tmp_path / "a").mkdir()
    for same in (release, tmp_path / "link", tmp_path / "a" / ".." / "r"):
        with pytest.raises(UsageError, match="is the release that is read"):
            require_outside(same, release)
        for source in (release, None):
            with pytest.raises(UsageError, match=r"lies in the release .*/r, whose checksums"):
                require_outside(same / "new" / "serve", source)
    for outside in (tmp_path / "r-serve", tmp_path, tmp_path / "a" / "new"):
        require_outside(outside, release)
    require_outside(release, None)  # an earlier export, which is replaced as a whole
