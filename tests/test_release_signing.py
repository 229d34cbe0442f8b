"""Signatures with a local key: what they cover, whose they are, and how the commands end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_examples import copy_of_release, flip_a_byte, forge
from release_examples import new_keys
from small_policy import safediff

from safediff.errors import Inconclusive, UsageError
from safediff.release import signing
from safediff.release.checksums import verify_checksums, write_checksums
from safediff.release.signing import check_signature, sign_release
from safediff.release.weights import UNET_PATH


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return new_keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture
def release(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """A signed release, moved away from where it was signed."""
    made = copy_of_release(tmp_path)
    sign_release(made, keys[0])
    return made.rename(tmp_path / "moved")


def test_a_signed_release_agrees_wherever_it_lies(release: Path, keys: tuple[Path, Path]) -> None:
    assert check_signature(release, keys[1]) is None
    verify_checksums(release)  # the signature covers the sums, so it is not in them
    sign_release(release, keys[0])
    assert check_signature(release, keys[1]) is None
    assert [p.name for p in release.parent.iterdir()] == ["moved"]


def test_anybody_may_read_a_signature(release: Path, keys: tuple[Path, Path]) -> None:
    before = os.umask(0o077)
    try:
        sign_release(release, keys[0])
    finally:
        os.umask(before)
    assert (release / "model.sig").stat().st_mode & 0o777 == 0o644


CHANGES: dict[str, Callable[[Path], object]] = {
    f"Hash mismatch for '{UNET_PATH}'": lambda r: flip_a_byte(r / UNET_PATH),
    "Extra files found": lambda r: (r / "unet" / "extra.bin").touch(),
    ".gitignore": lambda r: (r / ".gitignore").touch(),
    "Missing files": lambda r: (r / "vae" / "config.json").unlink(),
}


@pytest.mark.parametrize("problem", CHANGES)
@pytest.mark.parametrize("fitting", [False, True])
def test_each_change_is_seen_even_where_the_sums_fit(
    release: Path, keys: tuple[Path, Path], problem: str, fitting: bool
) -> None:
    CHANGES[problem](release)
    if fitting:
        write_checksums(release)
    found = check_signature(release, keys[1])
    assert found is not None
    assert found.startswith("model.sig does not fit files and key: ")
    if not fitting:
        assert problem in found


def test_a_forged_certificate_and_a_foreign_key_are_seen(
    release: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    _, foreign = new_keys(tmp_path, "foreign")
    assert "model.sig does not fit" in str(check_signature(release, foreign))
    forge(release, lambda c: c.update(limitations=[]))
    assert "model.sig does not fit" in str(check_signature(release, keys[1]))


def test_no_signature_and_no_key(release: Path, keys: tuple[Path, Path]) -> None:
    (release / "model.sig").write_text("{}", encoding="utf-8")
    assert "model.sig does not fit" in str(check_signature(release, keys[1]))
    (release / "model.sig").unlink()
    assert check_signature(release, keys[1]) == (
        "model.sig is missing, so there is no signature to check"
    )
    (release / "model.sig").touch()
    with pytest.raises(UsageError, match="not a public key"):
        check_signature(release, release / "README.md")
    with pytest.raises(UsageError, match="cannot sign with this key"):
        sign_release(release, release / "absent.pem")
    rsa = release.with_name("rsa.pem")
    subprocess.run(["openssl", "genrsa", "-out", rsa, "2048"], check=True, capture_output=True)
    with pytest.raises(UsageError, match="cannot sign with this key"):
        sign_release(release, rsa)


def test_a_release_that_can_not_be_written_to_is_no_matter_of_the_key(
    release: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    before = (release / "model.sig").read_bytes()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(Inconclusive, match=r"moved: can't be signed: \[Errno 28\] No space left"):
        sign_release(release, keys[0])
    assert (release / "model.sig").read_bytes() == before
    assert not list(release.glob(".model.sig*"))


def test_the_signature_is_moved_within_the_release(
    release: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mount point, into which no file can be moved."""
    moved: list[tuple[Path, Path]] = []
    original = Path.replace

    def noted(self: Path, target: Path) -> Path:
        moved.append((self.parent, target.parent))
        return original(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    sign_release(release, keys[0])
    assert moved == [(release, release)]
    assert check_signature(release, keys[1]) is None


def test_without_the_extra_it_says_what_to_install(
    release: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(Inconclusive, match="signing extra") as caught:
        check_signature(release, keys[1])
    assert caught.value.next_step == signing.INSTALL


def check(release: Path, public: Path) -> subprocess.CompletedProcess[str]:
    certificate = release / "safety-certificate.json"
    return safediff("verify", "--certificate", certificate, "--public-key", public, release)


def test_the_commands(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    release = copy_of_release(tmp_path)
    unsigned = check(release, public)
    assert unsigned.returncode == 3
    assert "model.sig is missing" in unsigned.stderr
    done = safediff("sign", release, "--key", private)
    assert (done.returncode, done.stdout) == (0, f"signed   {release}/model.sig\n")
    good = check(release, public)
    assert good.returncode == 0, good.stderr
    assert "signature    made with the private key of ours.pub.pem" in good.stdout
    forge(release, lambda c: c.update(limitations=[]))
    bad = check(release, public)
    assert bad.returncode == 3
    assert "Hash mismatch for 'safety-certificate.json'" in bad.stderr
    flip_a_byte(release / UNET_PATH)
    refused = safediff("sign", release, "--key", private)
    assert refused.returncode == 2
    assert "does not match its SHA256SUMS" in refused.stderr
    assert safediff("sign", release / "vae", "--key", private).returncode == 2
