"""Weights of feature networks: read without running what a file brings along, fetched once."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from safediff.errors import Inconclusive
from safediff.metrics.weights import published, read_weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(7)}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "boom")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "save"), [("w.pth", torch.save), ("w.safetensors", save_file)])
def test_tensors_and_hash_of_a_file(tmp_path: Path, name: str, save: Any) -> None:
    save(STATE, tmp_path / name)
    found = read_weights(tmp_path / name)
    assert found.tensors.keys() == STATE.keys()
    assert all(torch.equal(found.tensors[key], STATE[key]) for key in STATE)
    assert found.sha256 == sha256(tmp_path / name)


@pytest.mark.parametrize("save", [torch.save, lambda bomb, file: file.write(pickle.dumps(bomb))])
def test_a_file_with_code_is_refused_before_it_runs(tmp_path: Path, save: Any) -> None:
    path, crater = tmp_path / "w.pth", tmp_path / "crater"
    with path.open("wb") as file:
        save({"a": Bomb(crater)}, file)
    with pytest.raises(Inconclusive, match="cannot be read as weights"):
        read_weights(path)
    assert not crater.exists()
    with path.open("rb") as file:
        torch.load(file, weights_only=False) if save is torch.save else pickle.load(file)
    assert crater.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(2)], "something other than tensors by name"),
        ({"state_dict": STATE}, "something other than tensors by name"),
        (None, "cannot be read as weights"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused(
    tmp_path: Path, content: object, expected: str
) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"no weights") if content is None else torch.save(content, path)
    with pytest.raises(Inconclusive, match=f"{path}: .*{expected}"):
        read_weights(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Inconclusive, match=name):
        read_weights(tmp_path / name)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a file lies to be fetched; torch's cache is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


def offer(shelf: Path, digits: str | None = None) -> Path:
    torch.save(STATE, shelf / "new")
    path = shelf / f"net-{digits or sha256(shelf / 'new')[:8]}.pth"
    return (shelf / "new").rename(path)


def test_published_weights_are_fetched_once(shelf: Path, tmp_path: Path) -> None:
    path = offer(shelf)
    found = published(path.as_uri(), "features_weights")
    assert found == tmp_path / "cache" / "hub" / "checkpoints" / path.name
    assert sha256(found) == sha256(path)
    path.unlink()
    assert published(path.as_uri(), "features_weights") == found


def test_another_file_under_a_published_name_is_not_kept(shelf: Path, tmp_path: Path) -> None:
    path = offer(shelf, digits="00000000")
    with pytest.raises(Inconclusive, match=f"the weights {path.name} cannot be downloaded"):
        published(path.as_uri(), "features_weights")
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_without_a_network_the_key_for_a_local_copy_is_named(shelf: Path) -> None:
    with pytest.raises(Inconclusive, match="cannot be downloaded") as caught:
        published((shelf / "net-12345678.pth").as_uri(), "lpips_weights")
    assert caught.value.next_step == "name a local copy in the policy: verify.quality.lpips_weights"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_lack_of_memory_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(_: Path) -> Any:
        raise error

    monkeypatch.setattr("safediff.metrics.weights.load_file", load)
    with pytest.raises(type(error)):
        read_weights(tmp_path / "w.safetensors")
