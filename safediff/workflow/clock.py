"""How long work on a folder took by the clock, over all the runs that it needed."""

import json
import time
from pathlib import Path
from typing import NamedTuple

from safediff.sample.shards import ALONE, Shards
from safediff.workflow.run_folder import write_text


class Elapsed(NamedTuple):
    """Of a folder's work so far."""

    seconds: float
    runs: int

    def told(self, num_jobs: int) -> str:
        """For people."""
        runs = "one run" if self.runs == 1 else f"{self.runs} runs"
        beside = "" if num_jobs < 2 else f", {num_jobs} patches distilled beside the drawing"
        return f"{self.seconds / 60:.1f} minutes in {runs}{beside}"


class Clock:
    """Adds this run's seconds to those that are on disk.

    Args:
        path: Written at every tick, by process 0; a run that is killed counts up to its last one.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._began = path, time.monotonic()
        self._before = Elapsed(0.0, 0)
        if path.exists():
            self._before = Elapsed(**json.loads(path.read_text(encoding="utf-8")))

    def tick(self, shards: Shards = ALONE) -> Elapsed:
        """What has been spent up to now, by process 0's clock; kept for the next run."""
        seconds = self._before.seconds + time.monotonic() - self._began
        found = Elapsed(round(seconds, 1), self._before.runs + 1)
        if shards.leads:
            write_text(self.path, json.dumps(found._asdict()) + "\n")
        return found
