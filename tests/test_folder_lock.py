"""One process at a time in a folder; nothing left where nothing came of it."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_policy import environment, small_plan, write_policy

from safediff.cli import app
from safediff.errors import UsageError
from safediff.folder_lock import LOCK_NAME, held, is_empty
from safediff.sample.shards import ALONE
from safediff.workflow.held_folders import held_verification
from safediff.workflow.many import erase_all
from safediff.workflow.run_folder import make_free, open_run
from safediff.workflow.ui import SilentUi

HOLDING = """
import sys, time
from pathlib import Path
from safediff.folder_lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_had_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held(folder):
        (folder / "plan.json").touch()
        with (
            pytest.raises(UsageError, match="run: another safediff is writing to it"),
            held(folder),
        ):
            pass
    with held(folder):
        assert {path.name for path in folder.iterdir()} == {"plan.json", LOCK_NAME}


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UsageError, match="another safediff"), held(tmp_path):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert (tmp_path / LOCK_NAME).exists()
    assert is_empty(tmp_path)
    with held(tmp_path):
        pass


def test_a_disk_without_locks_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with held(tmp_path), held(tmp_path):
        pass


def test_a_platform_without_locks_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with held(tmp_path), held(tmp_path):
        pass


def test_a_lock_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had the folder may remove the file between another's opening and locking it."""
    opened: list[int] = []
    real = os.open

    def open_and_lose(path: Path, *rest: int) -> int:
        opened.append(real(path, *rest))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr("safediff.folder_lock.os.open", open_and_lose)
    with held(tmp_path):
        assert os.path.samestat(os.stat(tmp_path / LOCK_NAME), os.fstat(opened[-1]))
    assert len(opened) == 2


def test_nothing_is_left_where_nothing_came_of_it(tmp_path: Path) -> None:
    mine, new = tmp_path / "mine", tmp_path / "new"
    mine.mkdir()
    for folder in (mine, new):
        with pytest.raises(ZeroDivisionError), held(folder):
            _ = 1 / 0
    assert list(mine.iterdir()) == []
    assert not new.exists()


def test_a_run_that_is_at_work_is_not_taken_up(tmp_path: Path) -> None:
    plan, folder = small_plan(tmp_path), tmp_path / "run"
    open_run(plan, folder, resume=False)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with held(folder), pytest.raises(UsageError, match="another safediff is writing to it"):
        erase_all([plan], folder, True, SilentUi())
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != LOCK_NAME} == before


def test_a_run_has_its_folder_while_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def erase(plan: object, run: object, *_: object, **__: object) -> None:
        with held(tmp_path / "run"):
            pass

    monkeypatch.setattr("safediff.workflow.many.load_backbone", lambda model: object())
    monkeypatch.setattr("safediff.workflow.many.erase", erase)
    with pytest.raises(UsageError, match="another safediff is writing to it"):
        erase_all([small_plan(tmp_path)], tmp_path / "run", False, SilentUi())


def combine_arguments(policy: Path) -> list[str]:
    run = open_run(small_plan(policy.parent), policy.parent / "run", resume=False)
    run.patch.touch()
    other = write_policy(policy.parent / "other", ("name: small", "name: other"))
    return ["combine", str(run.path), "--then", str(other)]


@pytest.mark.parametrize(
    "arguments",
    [
        lambda policy: ["verify", "embedded", str(policy)],
        lambda policy: ["compare", str(policy)],
        combine_arguments,
    ],
)
def test_other_commands_take_no_folder_that_is_at_work_either(
    tmp_path: Path,
    arguments: Callable[[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    words = [*arguments(write_policy(tmp_path)), "--out", str(folder), "-q"]
    monkeypatch.setattr("sys.argv", ["safediff", *words])
    capsys.readouterr()
    with held(folder):
        assert app.main() == 2
    assert f"error: {folder}: another safediff is writing to it" in capsys.readouterr().err
    assert not folder.exists()


def test_two_verifications_at_once_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stem = Path("runs/small/verify")
    with held_verification(None, stem, ALONE) as one, held_verification(None, stem, ALONE) as other:
        assert [one.name, other.name] == ["verify", "verify-2"]
    assert not one.exists()
    assert make_free(stem) == stem
