"""Parts of the session's folder: made once, whatever becomes of the process that makes them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from session_folder import VARIABLE, made_once, session_folder, written_to

ASK = """
import os, sys, time
from pathlib import Path
from session_folder import made_once
def make(folder):
    folder.mkdir()
    (folder / "begun").touch()
    with (folder.parent / "log").open("a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(float(sys.argv[1]))
    (folder / "ended").touch()
print(sorted(path.name for path in made_once("part", make).iterdir()))
"""


@contextmanager
def asking(session: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that asks for the part and would need ``seconds`` to make it."""
    environment = os.environ | {VARIABLE: str(session), "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", ASK, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)


def makers(session: Path) -> list[int]:
    return [int(line) for line in (session / "log").read_text().split()]


def test_several_processes_make_it_once(tmp_path: Path) -> None:
    with asking(tmp_path, 0.5) as first, asking(tmp_path, 0.5) as second:
        assert {p.communicate(timeout=60)[0] for p in (first, second)} == {"['begun', 'ended']\n"}
    assert len(makers(tmp_path)) == 1


def test_who_waits_for_a_process_that_dies_makes_it_anew(tmp_path: Path) -> None:
    with asking(tmp_path, 600) as first:
        wait_for(tmp_path / "log", first)
        with asking(tmp_path, 0) as second:
            with pytest.raises(subprocess.TimeoutExpired):  # it waits
                second.communicate(timeout=0.5)
            first.kill()
            assert second.communicate(timeout=60)[0] == "['begun', 'ended']\n"
            assert makers(tmp_path) == [first.pid, second.pid]


def test_what_is_written_to_it_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    part = made_once("part", lambda folder: (folder / "in").mkdir(parents=True))
    assert written_to() == []
    (part / "in" / "more").touch()
    assert "part/in/more" in written_to()
    assert written_to() == []
    (part / "in" / "more").unlink()
    assert "part/in/more" in written_to()


def test_a_part_that_could_not_be_made_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))

    def fail(folder: Path) -> None:
        folder.mkdir()
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        made_once("part", fail)
    assert made_once("part", Path.mkdir).is_dir()


def test_the_folder_is_gone_when_the_process_ends() -> None:
    code = "from session_folder import session_folder as f; print(f()); assert f().is_dir()"
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip()
    assert not Path(done.stdout.strip()).exists()


def test_processes_that_share_the_tests_share_the_folder() -> None:
    owner = int((session_folder() / "owner").read_text())
    assert owner == (os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid())
