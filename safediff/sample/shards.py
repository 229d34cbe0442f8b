"""The processes that work together: who does what, and how they agree.

Started by torchrun or ``accelerate launch``, which say in the environment who is who. Every process
runs the same program; process 0 leads: what it finds is what all go by, and it alone writes
reports. JSON passes between them over gloo on the CPU, gradients over NCCL where they lie on GPUs;
pictures, journals, checkpoints and patches go over a file system that all of them see.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from safediff.errors import GO_ON, Inconclusive, UsageError, first_line, lacking_memory

MEETING = timedelta(minutes=10)
"""For all processes to be there."""
PATIENCE_HOURS = 12.0
"""How long one process waits for the slowest, unless ``SAFEDIFF_PATIENCE_HOURS`` says otherwise.
One that died is noticed at once, as its connection closes; one whose machine is gone, by this."""

STARTED_BY = "start with torchrun or accelerate launch; for one process unset WORLD_SIZE"

T = TypeVar("T")


@dataclass(frozen=True)
class Shards:
    """This process among ``count``."""

    rank: int = 0
    count: int = 1
    group: Any = None
    """Of torch.distributed; None for one process."""
    gpu_group: Any = None
    """For tensors on GPUs; None where there are none."""

    @property
    def leads(self) -> bool:
        """Process 0 decides and writes."""
        return self.rank == 0

    def share(self, batches: Iterable[T]) -> list[T]:
        """What this process does of the batches of one process: every ``count``-th, as it is.

        So each batch holds what it would hold in one process, and gives the same bits.
        """
        return list(batches)[self.stripe]

    @property
    def stripe(self) -> slice:
        """This process's part of batches, or of a batch's rows: every ``count``-th from its own."""
        return slice(self.rank, None, self.count)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Put into each tensor, in place, its sum over all processes; the same bits in each.

        Raises:
            Inconclusive: a process has ended.
        """
        if self.count == 1:
            return
        with torch.no_grad(), _company():
            for number, tensor in enumerate(tensors):
                if not tensor.is_cuda:
                    dist.all_reduce(tensor, group=self.group)
                    continue
                if number == 0:  # gloo notices at once that a process is gone, NCCL would wait
                    dist.barrier(group=self.group)
                dist.all_reduce(tensor, group=self.gpu_group)

    def agree(self, what: str, find: Callable[[], Any]) -> Any:
        """What ``find`` gives in process 0, as plain JSON; it is called nowhere else.

        Raises:
            Inconclusive: a process has ended, or this one is elsewhere than process 0.
        """
        if self.count == 1:
            return find()
        text = json.dumps([what, find()]) if self.leads else ""
        with _company():
            size = torch.tensor([len(text.encode())])
            dist.broadcast(size, 0, group=self.group)
            data = torch.zeros(int(size), dtype=torch.uint8)
            if self.leads:
                data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self.group)
        asked, found = json.loads(data.numpy().tobytes())
        if asked != what:
            raise Inconclusive(
                f"process {self.rank} is at {what!r}, process 0 at {asked!r}",
                "start all processes with the same version, policy and options",
            )
        return found

    def wait(self) -> None:
        """Until every process is here.

        Raises:
            Inconclusive: a process has ended.
        """
        if self.count > 1:
            with _company():
                dist.barrier(group=self.group)


ALONE = Shards()


def open_shards() -> Shards:
    """The processes that were started together; one, where nothing in the environment says more.

    Each process takes the GPU of its local rank.

    Raises:
        UsageError: there are more processes on this machine than GPUs, or the environment does not
            say who is who in whole numbers.
        Inconclusive: the processes cannot find each other.
    """
    count = _from_launcher("WORLD_SIZE", least=1, default="1")
    if count == 1:
        return ALONE
    rank, local = _from_launcher("RANK"), _from_launcher("LOCAL_RANK", default="0")
    if rank >= count:
        raise UsageError(f"RANK: {rank} is not below WORLD_SIZE, {count}", STARTED_BY)
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {rank}: no GPU is left for it, this machine has "
                f"{torch.cuda.device_count()}",
                "start as many processes on a machine as it has GPUs",
            )
        torch.cuda.set_device(local)
        _share_cores()
    patience = _patience()
    try:
        _meet(rank, count)
        dist.barrier()
        group = dist.new_group(backend="gloo", timeout=patience)
        gpu_group = dist.new_group(backend="nccl") if _nccl() else None
    except (RuntimeError, ValueError) as error:
        if lacking_memory(error):
            raise
        raise Inconclusive(
            f"process {rank} of {count} could not meet the others: {first_line(error)}",
            "check MASTER_ADDR, MASTER_PORT and that every process was started",
        ) from error
    return Shards(rank, count, group, gpu_group)


def _from_launcher(name: str, *, least: int = 0, default: str | None = None) -> int:
    """A number that the environment says."""
    given = os.environ.get(name, default)
    if given is None:
        raise UsageError(f"WORLD_SIZE is set, but {name} is not", STARTED_BY)
    try:
        number = int(given)
    except ValueError:
        number = least - 1
    if number < least:
        raise UsageError(f"{name}: {given!r} is not a whole number of at least {least}", STARTED_BY)
    return number


def _share_cores() -> None:
    """Give this process its part of the cores, where torchrun left it one.

    Models on the CPU keep that one: more threads add in another order.
    """
    count = _from_launcher("LOCAL_WORLD_SIZE", least=1, default="1")
    if count > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, _num_cores() // count))


def _num_cores() -> int:
    """Those that this process may use, where the system says it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _meet(rank: int, count: int) -> None:
    """Start torch.distributed; processes that torchrun started again do not read old addresses."""
    store, *_ = next(rendezvous("env://", rank, count, timeout=MEETING))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"safediff/{attempt}", store)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", timeout=MEETING, store=own, rank=rank, world_size=count)


def _patience() -> timedelta:
    given = os.environ.get("SAFEDIFF_PATIENCE_HOURS", PATIENCE_HOURS)
    try:
        hours = float(given)
    except ValueError:
        hours = 0.0
    if not 0 < hours < 1e5:  # NaN fails too
        raise UsageError(f"SAFEDIFF_PATIENCE_HOURS: {given!r} is not a number of hours above 0")
    return timedelta(hours=hours)


def _nccl() -> bool:
    return torch.cuda.is_available() and dist.is_nccl_available()


@contextmanager
def sharded() -> Iterator[Shards]:
    """The processes that were started together, as long as they work together.

    After an error the group is left as it is: NCCL parts only where every process of the machine
    does, and the others are still at work. Whoever ends the program then has to leave at once, as
    ``safediff.cli.app`` does, since the group's destructors would wait as well.
    """
    shards = open_shards()
    yield shards
    if shards.count > 1:
        dist.destroy_process_group()


@contextmanager
def _company() -> Iterator[None]:
    """Say in one line that another process is gone, or that NCCL failed."""
    try:
        yield
    except dist.DistBackendError as error:  # its first lines name a source file of PyTorch's
        *_, last = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        raise Inconclusive(f"NCCL failed: {last}", "NCCL_DEBUG=INFO says more") from error
    except RuntimeError as error:  # gloo: connection closed, reset, timed out
        if lacking_memory(error):
            raise
        raise Inconclusive(
            "another process has ended before the work was done, or is no longer heard of "
            f"({first_line(error)})",
            f"see its own message; {GO_ON}",
        ) from error
