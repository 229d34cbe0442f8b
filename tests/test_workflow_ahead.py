"""Patches distilled ahead of their rows: the same table, the same errors, nobody left behind."""

import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from small_policy import QUICK, command, environment, small_plan, write_policy

from safediff.compare.entry import Entry
from safediff.compare.rows import OTHER_SEED, POLICY, choose
from safediff.errors import Inconclusive, UsageError
from safediff.models.load import load_backbone
from safediff.sample.shards import ALONE, Shards
from safediff.workflow import ahead, compare
from safediff.workflow.ahead import Ahead, choose_num_jobs
from safediff.workflow.compare import Contest, run_contest
from safediff.workflow.distiller import Job, _sendable
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.ui import SilentTask, SilentUi

LONG = (("num_steps: 8, learning", "num_steps: 100000, learning"), QUICK[0])
CLOCKS: dict[str, Any] = {"measure_seconds": 0.0, "jobs": None}


class NotedUi(SilentUi):
    """Keeps titles and totals of tasks; calls ``on_advance`` whenever one gets on."""

    def __init__(self, on_advance: Callable[[], None] = lambda: None) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.on_advance = on_advance

    def task(self, title: str, total: int) -> SilentTask:
        self.tasks.append((title, total))
        task = SilentTask()
        task.advance = lambda count, text="": self.on_advance()  # type: ignore[method-assign]
        return task


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Rounding is that of the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def timeless(entry: Entry) -> Entry:
    return replace(entry, erase_seconds=0.0, setup=replace(entry.setup, **CLOCKS))


def test_two_jobs_give_the_table_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, rows, ui = (
        small_plan(tmp_path, QUICK[0]),
        choose(["uce", OTHER_SEED, "policy-student"]),
        NotedUi(),
    )
    one, _ = run_contest(plan, rows, tmp_path / "one", SilentUi())
    two, _ = run_contest(plan, rows, tmp_path / "two", ui, num_jobs=2)
    assert [timeless(e) for e in two.entries] == [timeless(e) for e in one.entries]
    distilled = {POLICY, "policy-student", OTHER_SEED}
    assert {e.id for e in two.entries if e.setup.jobs == 2} == distilled
    assert {e.setup.jobs for e in one.entries} == {None}
    # one run is of two rows; the closed form is solved here
    shown = [task for task in ui.tasks if not task[0].startswith("draw")]
    assert sorted(shown) == [("distil policy", 8), ("distil policy-seed", 8), ("erase", 1)]
    assert not active_children()
    monkeypatch.delattr(ahead, "Distiller")  # what is there needs no process
    again, _ = run_contest(plan, rows, tmp_path / "two", SilentUi(), num_jobs=2)
    assert again.entries == two.entries


def test_an_error_is_raised_at_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path, QUICK[0], ("learning_rate: 2.0e-2", "learning_rate: 1.0e+30"))
    monkeypatch.delattr(compare, "train")
    with pytest.raises(Inconclusive, match=r"step \d: .* not finite") as raised:
        run_contest(plan, choose([]), tmp_path / "out", SilentUi(), num_jobs=2)
    assert raised.value.next_step.startswith("lower erase.options.learning_rate")
    assert not active_children()


def test_a_process_that_dies_is_told_and_replaced(tmp_path: Path) -> None:
    long, short = small_plan(tmp_path, *LONG), small_plan(tmp_path / "short")
    first, second = Job("first", long, tmp_path / "1"), Job("second", short, tmp_path / "2")
    killed: list[int] = []

    def kill() -> None:
        if not killed:
            killed.append(found.distillers[0].process.pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    with Ahead([first, second], 1, NotedUi(kill)) as found:
        with pytest.raises(Inconclusive, match=r"first: the process .* \(exit code -9\)"):
            found.wait("first", first.path)
        found.wait("second", second.path)
    assert RunFolder(second.path).patch.exists()
    assert not RunFolder(first.path).patch.exists()


def test_rows_that_are_ready_do_not_wait_for_others(tmp_path: Path) -> None:
    plan, rows = small_plan(tmp_path), choose(["neg", "uce", OTHER_SEED])
    backbone = load_backbone(plan.model)
    with Contest(plan, backbone, tmp_path / "out", SilentUi()) as contest:
        contest.ahead = Ahead(contest._jobs(rows), 2, SilentUi())  # not entered: nothing begins
        turns = contest.in_turn(rows)
        assert [next(turns).id for _ in range(3)] == ["sd", "neg", "uce"]
        own, other = contest.ahead.ends
        contest.ahead.ends[other].set_result(None)
        assert [row.id for row in turns] == [OTHER_SEED, POLICY]
        # nothing is distilled ahead: the order is that of the rows
        contest.ahead = Ahead((), 1, SilentUi())
        assert list(contest.in_turn(rows)) == rows
        assert own != other


def test_threads_are_shared_while_others_distil(tmp_path: Path) -> None:
    jobs = [Job(name, small_plan(tmp_path), tmp_path / name) for name in "ab"]
    torch.set_num_threads(2)
    try:
        beside = Ahead(jobs, 2, SilentUi())  # not entered: nothing begins
        beside.take_threads()
        assert torch.get_num_threads() == beside.threads == 1
        for end in beside.ends.values():
            end.set_result(None)
        beside.take_threads()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def running(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def until(true: Callable[[], bool], seconds: float = 200.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(),
    reason="finds the processes that are left in Linux's /proc, which this system has not",
)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nobody_goes_on_without_the_comparison(tmp_path: Path, how: signal.Signals) -> None:
    """A killed process cannot say goodbye; Ctrl-C goes to all processes of a terminal."""
    policy, out = write_policy(tmp_path, *LONG), tmp_path / "out"
    options = ("--rows", "sd", "--jobs", "2", "--quiet", "--out", out)
    with subprocess.Popen(
        command("compare", policy, *options),
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
        text=True,
    ) as main:
        try:
            assert until(lambda: len([*out.glob("patches/*/checkpoint.safetensors")]) == 1)
            threads = Path(f"/proc/{main.pid}/task").iterdir()
            children = [int(pid) for t in threads for pid in (t / "children").read_text().split()]
            assert len(children) >= 2
            if how == signal.SIGINT:
                os.killpg(main.pid, how)
            else:
                main.kill()
            _, said = main.communicate(timeout=100)
            assert until(lambda: not any(map(running, children)), 30)
        finally:
            main.kill()
    if how == signal.SIGINT:
        assert (main.returncode, said) == (130, "interrupted\n")


def test_errors_travel_with_what_the_command_line_needs() -> None:
    error = pickle.loads(pickle.dumps(_sendable(UsageError("no such text", "name another"))))
    assert isinstance(error, UsageError)
    assert (str(error), error.next_step) == ("no such text", "name another")
    full = pickle.loads(pickle.dumps(_sendable(torch.OutOfMemoryError("CUDA out of memory"))))
    assert isinstance(full, Inconclusive)
    assert "docs/memory.md" in full.next_step
    try:
        raise KeyError("lost")
    except KeyError as unforeseen:
        other = pickle.loads(pickle.dumps(_sendable(unforeseen)))
    assert "KeyError('lost')" in str(other)
    assert "test_errors_travel" in other.__notes__[0]


def test_how_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for num_threads, expected in ((1, 1), (2, 2), (64, 4)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=num_threads: n)
        assert choose_num_jobs(None, ALONE) == expected
        assert choose_num_jobs(6, ALONE) == 6
        assert choose_num_jobs(None, Shards(count=2)) == 1
    with pytest.raises(UsageError, match="--jobs 2: under torchrun"):
        choose_num_jobs(2, Shards(count=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_num_jobs(None, ALONE) == 1
