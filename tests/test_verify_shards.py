"""Several processes draw one verification: the same journal, numbers and verdict as one process."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_policy import command, environment, safediff, write_policy

from safediff.errors import Inconclusive, UsageError
from safediff.gate.journal import Journal, JournalHeader, JournalRecord, JournalTail, read_journal
from safediff.judge.embedded import EmbeddedJudge
from safediff.sample import shards as shards_module
from safediff.sample.draw import Row
from safediff.sample.sampler import Draw, Picture, Sampling
from safediff.sample.shards import ALONE, Shards, open_shards, sharded
from safediff.verify.album import Photographer
from safediff.verify.assignments import Assignment
from safediff.verify.ledger import Ledger

SMALL_BATCHES = ("batch_size: 16", "batch_size: 4")
SEQUENTIAL = ("export", "  budget: {rule: sequential}\nexport")
BASE_PICTURES, MODEL_PICTURES = 32, 32
KILLED_AT = BASE_PICTURES // 2 + 6
"""Of process 1's pictures: in the middle of its second batch of the model's."""
KILL = f"""
import os, signal
from safediff.verify import album
write, left = album.write_picture, [{KILLED_AT}]
def write_and_die(path, image):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write(path, image)
album.write_picture = write_and_die
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(
    *arguments: str | Path, codes: tuple[str | None, ...] = (None, None), **changes: str
) -> list[subprocess.CompletedProcess[str]]:
    """The command line in as many processes as there are codes, which know of each other."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **changes}
    world = {"WORLD_SIZE": str(len(codes)), **meeting}
    processes = [
        subprocess.Popen(
            command(*arguments, code=code),
            env=environment(**world, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, code in enumerate(codes)
    ]
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(processes, said, strict=True)
    ]


TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2", "--master-port")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
ACCELERATE += ("--main_process_port",)
"""What ``torchrun`` and ``accelerate launch`` start."""


def launched(
    launcher: Sequence[str], *program: str | Path, **changes: str
) -> subprocess.CompletedProcess[str]:
    """A program in the processes of a launcher, as its documentation says."""
    return subprocess.run(
        [sys.executable, "-m", *launcher, str(free_port()), *map(str, program)],
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def by_torchrun(
    logs: Path, *arguments: str | Path, restarts: int = 0, **changes: str
) -> tuple[subprocess.CompletedProcess[str], list[tuple[str, str]]]:
    """The command line under torchrun; how that ended, and what each process said last."""
    keep = ("--max-restarts", str(restarts), "--log-dir", str(logs), "--redirects", "3")
    launcher = (*TORCHRUN[:-1], *keep, TORCHRUN[-1])
    done = launched(launcher, "-m", "safediff.cli.app", *arguments, **changes)
    (last,) = logs.glob(f"*/attempt_{restarts}")
    return done, [
        ((last / rank / "stdout.log").read_text(), (last / rank / "stderr.log").read_text())
        for rank in ("0", "1")
    ]


def verdict(folder: Path) -> dict[str, Any]:
    """All of a verdict but its times."""
    found = json.loads((folder / "verdict.model.json").read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name not in ("started", "finished")}


@dataclass(frozen=True)
class Single:
    """A verification by one process."""

    policy: Path
    folder: Path
    stdout: str

    @property
    def journal(self) -> bytes:
        return (self.folder / "journal.jsonl").read_bytes()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Single:
    folder = tmp_path_factory.mktemp("single")
    policy = write_policy(folder, SMALL_BATCHES)
    done = safediff("verify", "embedded", policy, "--out", folder / "out", "-q", "--format", "json")
    assert done.returncode == 1, done.stderr
    return Single(policy, folder / "out", done.stdout)


def numbers(text: str) -> Any:
    (report,) = json.loads(text)["reports"]
    return report["results"], report["num_images"], report["verdict"]


def test_two_processes_give_the_bytes_of_one(single: Single, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("verify", "embedded", single.policy, "--out", out, "--exit-zero")
    done, ((stdout, _), second) = by_torchrun(
        tmp_path / "logs", *arguments, "--format", "json", "--no-progress"
    )
    assert done.returncode == 0, done.stderr
    assert (out / "journal.jsonl").read_bytes() == single.journal
    assert verdict(out) == verdict(single.folder)
    assert numbers(stdout) == numbers(single.stdout)
    assert second == ("", "")  # process 0 speaks for all
    shares = [read_journal(out / "journals" / f"rank-{rank}.jsonl").records for rank in (0, 1)]
    assert [len(share) for share in shares] == [32, 32]
    assert {r.key for r in shares[0]} & {r.key for r in shares[1]} == set()


def test_a_killed_process_is_told_and_only_what_is_x(single: Single, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("verify", "embedded", single.policy, "--out", out, "-q")
    first, second = together(*arguments, codes=(None, KILL))
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 3
    assert first.stderr.startswith("error: another process has ended before the work was done, ")
    assert "  next: see its own message; the same command with the run's" in first.stderr
    assert not (out / "report.html").exists()
    assert not (out / "verdict.model.json").exists()
    filed = sum(len(read_journal(p).records) for p in (out / "journals").glob("*.jsonl"))
    assert filed == BASE_PICTURES + MODEL_PICTURES // 2 + 4  # one whole batch of process 1
    before = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")}
    assert len(before) == filed + 2  # two were written and not yet filed
    alone = tmp_path / "alone"
    shutil.copytree(out, alone)

    first, second = together(*arguments)
    assert (first.returncode, second.returncode) == (1, 0), first.stderr + second.stderr
    after = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")}
    untouched = [path for path in before if after[path] == before[path]]
    assert len(untouched) == filed
    assert len(after) == BASE_PICTURES + MODEL_PICTURES
    assert verdict(out)["results"] == verdict(single.folder)["results"]
    assert sorted((out / "journal.jsonl").read_bytes().splitlines()) == sorted(
        single.journal.splitlines()
    )

    written = {path: path.stat().st_mtime_ns for path in (alone / "images").rglob("*.png")}
    done = safediff("verify", "embedded", single.policy, "--out", alone, "-q")
    assert done.returncode == 1, done.stderr
    assert sum(path.stat().st_mtime_ns != written[path] for path in written) == 2
    assert verdict(alone)["results"] == verdict(single.folder)["results"]


def test_the_sequential_rule_stops_at_the_same_place(tmp_path: Path) -> None:
    policy = write_policy(tmp_path, SEQUENTIAL, SMALL_BATCHES)
    done = safediff("verify", "embedded", policy, "--out", tmp_path / "one", "-q")
    first, second = together("verify", "embedded", policy, "--out", tmp_path / "two", "-q")
    assert done.returncode == first.returncode, first.stderr
    assert second.returncode == 0, second.stderr
    one, two = verdict(tmp_path / "one"), verdict(tmp_path / "two")
    assert two["results"] == one["results"]
    assert two["verdict"] == one["verdict"]
    assert two["num_images"] >= one["num_images"]  # a round is a batch of every process


def test_accelerate_launches_it(single: Single, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("verify", "embedded", single.policy, "--exit-zero", "--out", out)
    shown = ("--format", "json", "--no-progress")
    done = launched(ACCELERATE, "-m", "safediff.cli.app", *arguments, *shown)
    assert done.returncode == 0, done.stderr
    assert numbers(done.stdout) == numbers(single.stdout)
    assert (out / "journal.jsonl").read_bytes() == single.journal


def test_processes_with_different_policies_end_and_say_so(single: Single, tmp_path: Path) -> None:
    other = write_policy(tmp_path, ("max_rate: 0.5", "max_rate: 0.4"))
    code = f"import sys; sys.argv[3] = {str(other)!r}"
    arguments = ("verify", "embedded", single.policy, "--out", tmp_path / "out", "-q")
    first, second = together(*arguments, codes=(None, code))
    assert (first.returncode, second.returncode) == (2, 2)
    assert "written for plan" in first.stderr
    assert "written for plan" in second.stderr


def test_a_process_that_never_comes_is_not_waited_for_for_ever(
    single: Single, tmp_path: Path
) -> None:
    short = "import datetime\nfrom safediff.sample import shards\n"
    short += "shards.MEETING = datetime.timedelta(seconds=2)"
    (done,) = together(
        *("verify", "embedded", single.policy, "--out", tmp_path / "out", "-q"),
        codes=(short,),
        WORLD_SIZE="2",
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: process 0 of 2 could not meet the others: ")


SLEEP = """
import sys, time
from safediff.sample.shards import sharded
with sharded() as shards:
    if shards.rank:
        time.sleep(600)
    shards.wait()
"""


def test_a_process_that_is_no_longer_heard_of_is_given_up() -> None:
    """Its connection stays open, as that of a machine that lost its power would."""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    world["SAFEDIFF_PATIENCE_HOURS"] = str(5 / 3600)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SLEEP],
            env=environment(**world, RANK=str(rank)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        _, said = processes[0].communicate(timeout=240)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode != 0
    assert "Inconclusive: another process has ended before the work was done, or is no" in said


def test_only_processes_that_did_their_work_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NCCL an early one would wait for the others before it could say why."""
    parted: list[bool] = []
    monkeypatch.setattr(shards_module, "open_shards", lambda: Shards(1, 2))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: parted.append(True))
    with pytest.raises(Inconclusive, match="no disk"), sharded():
        raise Inconclusive("no disk")
    assert parted == []
    with sharded() as found:
        assert found.count == 2
        assert parted == []
    assert parted == [True]


NCCL = """NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1691, unhandled system
ncclSystemError: System call (e.g. socket, malloc) or external library call failed
Last error:
Error while creating shared memory segment /dev/shm/nccl-x

"""


@pytest.mark.parametrize(
    ("error", "said", "next_step"),
    [
        (
            torch.distributed.DistBackendError(NCCL),
            "NCCL failed: Error while creating shared memory segment /dev/shm/nccl-x",
            "NCCL_DEBUG=INFO says more",
        ),
        (
            RuntimeError("Connection closed by peer\nmore"),
            "another process has ended before the work was done, or is no longer heard of "
            "(Connection closed by peer)",
            "see its own message; ",
        ),
    ],
)
def test_what_the_processes_talk_through_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, next_step: str
) -> None:
    def fail(*_: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("torch.distributed.all_reduce", fail)
    with pytest.raises(Inconclusive) as caught:
        Shards(0, 2).sum([torch.zeros(1)])
    assert str(caught.value) == said
    assert caught.value.next_step.startswith(next_step)


def test_a_lack_of_memory_is_no_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("torch.distributed.all_reduce", fail)
    with pytest.raises(torch.OutOfMemoryError):
        Shards(0, 2).sum([torch.zeros(1)])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(shards_module, "_meet", fail)
    with pytest.raises(torch.OutOfMemoryError):
        open_shards()


@pytest.mark.parametrize("hours", ["0", "-1", "soon", "nan"])
def test_patience_is_a_number_of_hours(hours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SAFEDIFF_PATIENCE_HOURS", hours)
    with pytest.raises(UsageError, match=r"SAFEDIFF_PATIENCE_HOURS: '.*' is not a number of hours"):
        open_shards()


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE: 'abc' is not a whole number of at least 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: '0' is not a whole number of at least 1"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, but RANK is not"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK: '-1' is not a whole number of at least 0"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: 2 is not below WORLD_SIZE, 2"),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "x"},
            "LOCAL_RANK: 'x' is not a whole number of at least 0",
        ),
    ],
)
def test_an_environment_that_says_nonsense_is_refused(
    monkeypatch: pytest.MonkeyPatch, world: dict[str, str], said: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        open_shards()
    assert str(caught.value) == said
    assert "torchrun" in caught.value.next_step


@pytest.mark.parametrize("count", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_shares_are_whole_batches_and_cover_everything(count: int, batch_size: int) -> None:
    items = list(range(50))
    batches = [items[i : i + batch_size] for i in range(0, 50, batch_size)]
    shares = [Shards(rank, count).share(iter(batches)) for rank in range(count)]
    assert sorted(batch for share in shares for batch in share) == batches
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= batch_size


class Agreeing(Shards):
    """A process whose others say what it says."""

    def agree(self, what: str, find: Callable[[], Any]) -> Any:
        return find()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pictures_of_several_guidance_scales_keep_their_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Batches end where the scale changes; those of one process must not be cut anew."""
    scales = [3.0] * 3 + [7.0] * 2 + [3.0] * 5 + [7.0] * 2
    draws = [Draw(f"text {number}") for number in range(len(scales))]
    rows = {d.prompt: Row(guidance_scale=s) for d, s in zip(draws, scales, strict=True)}
    sampling = Sampling(batch_size=4, rows=rows)
    items = [Assignment("erasure/a", draw, ("axe",), "embedded") for draw in draws]
    drawn: list[list[Draw]] = []

    def note(_: Any, asked: list[Draw], sampling: Sampling, *rest: Any) -> Iterator[list[Picture]]:
        drawn.extend(part for part, _ in sampling.batches(asked))
        return iter([])

    monkeypatch.setattr("safediff.verify.album.sample", note)
    model: Any = SimpleNamespace(name="model")
    for rank in range(count):
        ledger: Any = SimpleNamespace(
            shards=Agreeing(rank, count), known=lambda subject: {}, settle=lambda *_: None
        )
        Photographer(items, sampling, {}, ledger, tmp_path).draw("model", model, {}, draws)
    expected = [part for part, _ in sampling.batches(draws)]
    assert sorted(drawn, key=lambda part: draws.index(part[0])) == expected


def test_one_process_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    shards = open_shards()
    assert shards is ALONE
    assert shards.leads
    nothing_json = object()
    assert shards.agree("anything", lambda: nothing_json) is nothing_json
    shards.wait()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UsageError, match="no GPU is left for it, this machine has 2"):
        open_shards()


@pytest.mark.parametrize(
    ("gpu", "local", "given", "threads"),
    [
        (True, "2", "1", [6]),
        (True, "16", "1", [1]),
        (True, "1", "1", []),  # the only one on its machine
        (True, "2", "3", []),  # somebody chose
        (True, "2", "", []),
        (False, "2", "1", []),
    ],
)
def test_beside_gpus_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, local: str, given: str, threads: list[int]
) -> None:
    world = {"WORLD_SIZE": "32", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": local}
    for name, value in {**world, "OMP_NUM_THREADS": given}.items():
        monkeypatch.setenv(name, value)
    found: list[int] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 16)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("torch.set_num_threads", found.append)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {*range(12)})
    monkeypatch.setenv("SAFEDIFF_PATIENCE_HOURS", "0")  # ends before the others are met
    with pytest.raises(UsageError, match="PATIENCE"):
        open_shards()
    assert found == threads


HEADER = JournalHeader(plan_sha256="a" * 64, judges={"j": "b" * 64}, thresholds={"j": 0.5})


def record(prompt: str, subject: str = "model", check: str = "erasure/axe") -> JournalRecord:
    return JournalRecord(
        subject=subject,
        check=check,
        prompt=prompt,
        index=0,
        seed=1,
        status="ok",
        scores={"axe": 0.25},
        image_sha256=prompt * 4,
    )


@dataclass(frozen=True)
class Acting(Shards):
    """Processes whose part the test plays while this one waits."""

    meanwhile: Callable[[], None] = lambda: None

    def wait(self) -> None:
        self.meanwhile()


def test_pictures_that_no_journal_holds_are_no_pictures(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, HEADER, Acting(0, 2))
    ledger.append([record("a")])
    with pytest.raises(Inconclusive, match="1 of 2 pictures that the processes drew of model"):
        ledger.settle("model", [Draw("a"), Draw("b")], [Draw("a"), Draw("b")])
    ledger.close()


def test_a_folder_that_is_not_shared_is_told(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="process 1 does not see what process 0 wrote there"):
        Ledger(tmp_path, HEADER, Acting(1, 2))


def test_merged_records_come_in_the_order_of_one_process(tmp_path: Path) -> None:
    other = tmp_path / "journals" / "rank-1.jsonl"
    other.parent.mkdir()
    with Journal(other, HEADER) as journal:
        journal.append([record("c"), record("a"), record("a", check="retention/x")])
    ledger = Ledger(tmp_path, HEADER, Acting(0, 2))
    assert {draw.prompt for draw in ledger.known("model")} == {"a", "c"}
    assert ledger.known("base") == {}
    ledger.append([record("b"), record("d", "base")])
    ledger.settle("model", [Draw(p) for p in "abc"], [Draw("b")])
    found = [(r.prompt, r.check) for r in read_journal(tmp_path / "journal.jsonl").records]
    assert found == [
        ("a", "erasure/axe"),
        ("a", "retention/x"),
        ("b", "erasure/axe"),
        ("c", "erasure/axe"),
    ]
    ledger.close()
    again = Ledger(tmp_path, HEADER, Acting(0, 2))  # what was merged is not merged twice
    again.settle("model", [Draw(p) for p in "abc"], [])
    assert len(again.records) == 4
    assert set(again.known("base")) == {Draw("d")}
    again.close()


def test_a_journal_is_read_on_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        tail = JournalTail(path, HEADER)
        assert tail.read_on() == []
        journal.append([record("a")])
        assert [r.prompt for r in tail.read_on()] == ["a"]
        journal.append([record("b"), record("c")])
        whole = path.read_bytes()
        path.write_bytes(whole[:-5])  # the last line is still being written
        assert [r.prompt for r in tail.read_on()] == ["b"]
        path.write_bytes(whole)
        assert [r.prompt for r in tail.read_on()] == ["c"]
        assert tail.read_on() == []


def test_a_journal_of_another_plan_is_not_merged(tmp_path: Path) -> None:
    other = JournalHeader(plan_sha256="c" * 64, judges={}, thresholds={})
    with (
        Journal(tmp_path / "journal.jsonl", other),
        pytest.raises(UsageError, match="for plan cccc"),
    ):
        JournalTail(tmp_path / "journal.jsonl", HEADER).read_on()


class Studio(Photographer):
    """Gives black pictures and notes what it was asked for."""

    def pictures(
        self, backbone: Any, draws: Sequence[Draw], on_batch: Callable[[int], None], guard: Any
    ) -> Iterator[list[Picture]]:
        self.asked_for = list(draws)
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        yield [Picture(draw=draw, image=image, finite=True) for draw in draws]


def test_a_half_filed_picture_is_drawn_again(tmp_path: Path) -> None:
    """Were its second line lost, the second check would lack a picture for ever."""
    draw = Draw("axe")
    items = [Assignment(check, draw, ("axe",), "embedded") for check in ("erasure/a", "erasure/b")]
    model: Any = SimpleNamespace(name="model")

    def run() -> tuple[list[Draw], list[str]]:
        ledger = Ledger(tmp_path, HEADER)
        studio = Studio(items, Sampling(), {"embedded": EmbeddedJudge()}, ledger, tmp_path)
        studio.asked_for = []
        studio.draw("model", model, {}, [draw])
        ledger.close()
        return studio.asked_for, [r.check for r in ledger.records]

    assert run() == ([draw], ["erasure/a", "erasure/b"])
    assert run() == ([], ["erasure/a", "erasure/b"])
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert run() == ([draw], ["erasure/a", "erasure/a", "erasure/b"])
