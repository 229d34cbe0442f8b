"""Distils the patches of coming rows while earlier rows are drawn.

Published erasers train on one trajectory at a time, which keeps one core busy whatever the number
of threads: several runs side by side take less time than one after another.
"""

import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing import get_context
from pathlib import Path
from threading import Lock, Thread

import torch

from safediff.errors import Inconclusive, UsageError
from safediff.sample.shards import Shards
from safediff.workflow.distiller import Job, work
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.ui import SilentTask, Task, Ui

MOST_JOBS = 4
"""Unless more are asked for: each holds a model of its own."""
NUM_JOBS = "jobs.json"
"""In the folder of a run that was distilled ahead: how many were at the same time."""
PATIENCE_SECONDS = 10.0
"""For a process that was told to end."""


def choose_num_jobs(asked: int | None, shards: Shards) -> int:
    """How many runs to distil at the same time; 1: one after another, in this process.

    Raises:
        UsageError: several are asked for where several processes share every run.
    """
    if asked is not None and asked > 1 and shards.count > 1:
        raise UsageError(
            f"--jobs {asked}: under torchrun all processes share one distillation after another",
            "leave --jobs out, or start one process",
        )
    if asked is not None:
        return asked
    if shards.count > 1 or torch.cuda.is_available():
        return 1
    return min(torch.get_num_threads(), MOST_JOBS)


class Ahead:
    """Distils runs in their order, in ``num_jobs`` processes; a context manager.

    They share this process's threads with it until all is distilled. At the end none is left; what
    is not finished goes on from its checkpoint another time.
    """

    def __init__(self, jobs: Sequence[Job], num_jobs: int, ui: Ui) -> None:
        self.ui, self.pending = ui, deque(jobs)
        self.ends: dict[Path, Future[None]] = {job.path: Future() for job in jobs}
        self.all_threads = torch.get_num_threads()
        self.threads = max(1, self.all_threads // num_jobs)
        """Of each process, and of this one meanwhile."""
        self.lock, self.closed = Lock(), False
        self.distillers: list[Distiller] = []
        count = min(num_jobs, len(jobs))
        self.servers = [Thread(target=self._serve, daemon=True) for _ in range(count)]

    def __enter__(self) -> "Ahead":
        for server in self.servers:
            server.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.closed = True
            self.pending.clear()
        for distiller in self.distillers:
            distiller.stop()
        for server in self.servers:
            server.join(PATIENCE_SECONDS)
        torch.set_num_threads(self.all_threads)

    def take_threads(self) -> None:
        """Let this process compute with its share of the threads, or all where nobody else does."""
        busy = not all(end.done() for end in self.ends.values())
        torch.set_num_threads(self.threads if busy else self.all_threads)

    def is_ready(self, path: Path) -> bool:
        """Whether nobody has to be waited for to have the run in ``path``."""
        end = self.ends.get(path)
        return end is None or end.done()

    def wait(self, title: str, path: Path) -> None:
        """Until the run in ``path`` is distilled, if it is one of these.

        Raises:
            Exception: what its training raised.
            Inconclusive: its process has ended.
        """
        end = self.ends.get(path)
        if end is None:
            return
        if not end.done():
            self.ui.say(f"{title}: waiting until it is distilled")
        end.result()

    def _serve(self) -> None:
        """Hand runs to one process until there are no more; starts another if it ends."""
        distiller: Distiller | None = None
        while (job := self._next()) is not None:
            try:
                if distiller is None or not distiller.process.is_alive():
                    distiller = self._start()
                note_jobs(RunFolder(job.path), len(self.servers))
                distiller.distil(job, self.ui)
            except BaseException as error:
                self.ends[job.path].set_exception(error)  # raised where the row is waited for
            else:
                self.ends[job.path].set_result(None)
        if distiller is not None:
            distiller.end()

    def _next(self) -> Job | None:
        with self.lock:
            return self.pending.popleft() if self.pending else None

    def _start(self) -> "Distiller":
        with self.lock:
            if self.closed:
                raise Inconclusive("the comparison has ended")
            distiller = Distiller(self.threads)
            self.distillers.append(distiller)
            return distiller


class Distiller:
    """A process that distils, seen from the one that started it."""

    def __init__(self, num_threads: int) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, num_threads), daemon=True)
        self.process.start()
        theirs.close()

    def distil(self, job: Job, ui: Ui) -> None:
        """Let it distil a run, and show how far it is.

        Raises:
            Exception: what training raised.
            Inconclusive: the process has ended.
        """
        try:
            self.pipe.send(job)
            error = self._follow(job, ui)
        except (EOFError, ConnectionError) as gone:
            self.process.join(PATIENCE_SECONDS)
            raise Inconclusive(
                f"{job.title}: the process that distilled it ended (exit code "
                f"{self.process.exitcode}) before it was done",
                "run the same command again, it goes on from here; with --jobs 1 it takes less "
                "memory",
            ) from gone
        if error is not None:
            raise error

    def _follow(self, job: Job, ui: Ui) -> Exception | None:
        task: Task = SilentTask()
        while True:
            kind, *what = self.pipe.recv()
            if kind == "task":
                task = ui.task(f"distil {job.title}", *what)
            elif kind == "advance":
                task.advance(*what)
            elif kind == "done":
                task.done(*what)
            elif kind == "say":
                ui.say(*what)
            else:
                error: Exception | None = what[0]
                return error

    def stop(self) -> None:
        """End it, whatever it does."""
        self.process.terminate()
        self.process.join(PATIENCE_SECONDS)
        self.process.kill()

    def end(self) -> None:
        """Tell it that there is nothing more to do."""
        self.pipe.close()
        self.process.join(PATIENCE_SECONDS)


def note_jobs(run: RunFolder, num_jobs: int) -> None:
    """Write into a run's folder that it does not have the machine to itself."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_text(NUM_JOBS, json.dumps({"jobs": num_jobs}) + "\n")


def read_jobs(run: RunFolder) -> int | None:
    """What ``note_jobs`` wrote; None: it was distilled with nothing beside it."""
    path = run.path / NUM_JOBS
    return int(json.loads(path.read_text(encoding="utf-8"))["jobs"]) if path.exists() else None
