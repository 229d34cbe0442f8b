"""A process that distils runs one after another; ``safediff.workflow.ahead`` starts it.

Imports no torch before it ignores Ctrl-C: that is for the process that started it, which then ends
this one.
"""

import os
import signal
import sys
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from safediff.errors import SafediffError, lacking_memory
from safediff.policy.plan import Plan


class Job(NamedTuple):
    """A run to distil."""

    title: str
    """For progress and messages."""
    plan: Plan
    path: Path


class PipeTask:
    """Tells the other end of a pipe how far it is."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self.pipe = pipe

    def advance(self, count: int, text: str = "") -> None:
        """See ``Task``."""
        self.pipe.send(("advance", count, text))

    def done(self, text: str = "") -> None:
        """See ``Task``."""
        self.pipe.send(("done", text))


class PipeUi:
    """Tells the other end of a pipe what there is to show."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self.pipe = pipe

    def task(self, title: str, total: int) -> PipeTask:
        """See ``Ui``; a run has one task."""
        self.pipe.send(("task", total))
        return PipeTask(self.pipe)

    def say(self, text: str) -> None:
        """See ``Ui``."""
        self.pipe.send(("say", text))


def work(pipe: "Connection[Any, Any]", num_threads: int) -> None:
    """Distil every ``Job`` that comes through the pipe, until it is closed.

    Each is answered with what ``PipeUi`` sends, then ``("end", error)`` or ``("end", None)``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that libraries tidy up
    Thread(target=_end_with_parent, daemon=True).start()
    from safediff.export.quiet import quiet

    with quiet():
        _work(pipe, num_threads)


def _end_with_parent() -> None:
    """Leave nobody training in folders that the next run will use."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(pipe: "Connection[Any, Any]", num_threads: int) -> None:
    import torch

    from safediff.models.load import load_backbone
    from safediff.workflow.run_folder import RunFolder
    from safediff.workflow.training import train

    torch.set_num_threads(num_threads)
    base = None
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        error = None
        try:
            base = base or load_backbone(job.plan.model)
            train(job.plan, base, RunFolder(job.path), PipeUi(pipe))
        except Exception as raised:
            error = _sendable(raised)
        pipe.send(("end", error))


def _sendable(error: Exception) -> Exception:
    """The error as it is where its kind decides the exit code, else with its traceback as text."""
    if isinstance(error, SafediffError | MemoryError | OSError):
        return error
    if told := lacking_memory(error):
        return told
    other = RuntimeError(f"while distilling: {error!r}")
    other.add_note(traceback.format_exc())
    return other
