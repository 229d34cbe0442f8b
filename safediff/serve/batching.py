"""Dynamic batching: pictures of concurrent requests are drawn together, within a bounded queue."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from safediff.serve.pipeline import Order
from safediff.serve.settings import Settings

Draw = Callable[[Sequence[Order], Settings], Tensor]
log = logging.getLogger("safediff.serve")


class Batch(NamedTuple):
    """What is told of a batch that is done."""

    num_orders: int
    num_drawn: int
    """Less where some failed."""
    seconds: float


FIRST_GUESS_S = 1.0
"""How long a batch takes, before one was measured."""
MEMORY = 0.8
"""Weight of the past in the moving average of that."""


class QueueFull(Exception):
    """There is no room for a request; ``retry_after_s`` says when there may be."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Stopping(Exception):
    """The server shuts down and takes no more requests."""


class Broken(Exception):
    """The thread that draws has ended, though nobody stopped it."""


@dataclass(eq=False)
class _Job:
    order: Order
    settings: Settings
    future: "Future[Tensor]" = field(default_factory=Future)


class Batcher:
    """Draws queued pictures in batches, in a thread of its own.

    A batch starts when it is full, or ``max_wait_s`` after its first picture came. Pictures of one
    batch share their settings; others wait for their turn, oldest first. A batch that fails is
    drawn again picture by picture.
    """

    def __init__(
        self,
        draw: Draw,
        *,
        max_batch: int,
        max_queue: int,
        max_wait_s: float,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.draw, self.on_batch = draw, on_batch
        self.max_batch, self.max_queue, self.max_wait_s = max_batch, max_queue, max_wait_s
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopping = self._ended = False
        self._batch_s = FIRST_GUESS_S
        self._thread = threading.Thread(target=self._work, name="safediff-batches", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Pictures that wait."""
        return len(self._jobs)

    @property
    def broken(self) -> bool:
        """Whether nothing can be drawn any more, though nobody stopped it."""
        return not self._stopping and not self._thread.is_alive()

    def submit(self, orders: Sequence[Order], settings: Settings) -> "list[Future[Tensor]]":
        """Queue all pictures of a request, or none of them.

        Raises:
            QueueFull: they do not fit into the queue.
            Stopping: the server shuts down.
            Broken: the thread that draws has ended.
        """
        jobs = [_Job(order, settings) for order in orders]
        with self._changed:
            if self._stopping:
                raise Stopping
            if self._ended:
                raise Broken
            self._forget_cancelled()
            if len(self._jobs) + len(jobs) > self.max_queue:
                raise QueueFull(self._retry_after_s())
            self._jobs.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def _retry_after_s(self) -> int:
        """Until what waits now is drawn."""
        return max(1, math.ceil(len(self._jobs) / self.max_batch * self._batch_s))

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more requests, finish those that wait, end the thread.

        Returns:
            Whether it ended within ``timeout_s``.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        batch: list[_Job] = []
        try:
            while batch := self._next_batch():
                self._draw_batch(batch)
        except Exception as error:  # its text may hold a prompt
            log.error("nothing is drawn any more: %s", type(error).__name__)
        finally:
            self._give_up(batch)

    def _draw_batch(self, batch: Sequence[_Job]) -> None:
        began = time.monotonic()
        try:
            pictures = self.draw([job.order for job in batch], batch[0].settings)
        except Exception as error:
            num_drawn = self._draw_apart(batch, error)
        else:
            num_drawn = len(batch)
            for job, picture in zip(batch, pictures, strict=True):
                job.future.set_result(picture)
        seconds = time.monotonic() - began
        self._batch_s = MEMORY * self._batch_s + (1 - MEMORY) * seconds
        self.on_batch(Batch(len(batch), num_drawn, seconds))

    def _give_up(self, batch: Sequence[_Job]) -> None:
        """Nobody waits for a thread that has ended; after draining nobody is left."""
        with self._changed:
            self._ended = True
            left = [job.future for job in (*batch, *self._jobs) if not job.future.done()]
            self._jobs.clear()
        for future in left:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(Broken())

    def _draw_apart(self, batch: Sequence[_Job], error: Exception) -> int:
        """One by one what failed together, so that an error reaches only those who caused it.

        Returns:
            How many could be drawn.
        """
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return 0
        num_drawn = 0
        for job in batch:
            try:
                (picture,) = self.draw([job.order], job.settings)
            except Exception as own:
                job.future.set_exception(own)
            else:
                job.future.set_result(picture)
                num_drawn += 1
        return num_drawn

    def _next_batch(self) -> list[_Job]:
        """The next pictures to draw; none once the queue is drained."""
        with self._changed:
            while self._has_come():
                settings = self._jobs[0].settings
                full_at = time.monotonic() + self.max_wait_s
                while not self._stopping and self._matching(settings) < self.max_batch:
                    if not self._changed.wait(max(0.0, full_at - time.monotonic())):
                        break
                if taken := self._take(settings):  # none where all clients went away meanwhile
                    return taken
            return []

    def _has_come(self) -> bool:
        """Wait for a picture; false once there will be none."""
        while True:
            self._forget_cancelled()
            if self._jobs or self._stopping:
                return bool(self._jobs)
            self._changed.wait()

    def _matching(self, settings: Settings) -> int:
        return sum(job.settings == settings for job in self._jobs)

    def _take(self, settings: Settings) -> list[_Job]:
        taken: list[_Job] = []
        for job in list(self._jobs):
            if job.settings == settings and len(taken) < self.max_batch:
                self._jobs.remove(job)
                if job.future.set_running_or_notify_cancel():
                    taken.append(job)
        return taken

    def _forget_cancelled(self) -> None:
        """Clients that went away."""
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._jobs.remove(job)
