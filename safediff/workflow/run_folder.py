"""The run folder: where one policy was erased and verified.

plan.json  environment.json  training.jsonl  checkpoint.safetensors
patch.safetensors  patch.student.safetensors  journal.jsonl  sessions.jsonl  images/  engine/
verdict.<subject>.json  report.html  report.md  release/

Of several processes: journals/  tracking/ where trackers were asked for. While a process works in
it, and after one was killed: .lock
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safediff.environment import environment
from safediff.errors import FREE_SPACE, Inconclusive, UsageError
from safediff.folder_lock import is_empty
from safediff.policy.plan import Plan

GATES = "gates"
"""Of a combination: its policies' verifications, by name."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run."""

    path: Path

    @property
    def patch(self) -> Path:
        """The teacher's patch: what is released."""
        return self.path / "patch.safetensors"

    @property
    def student_patch(self) -> Path:
        """The student's patch, for comparison."""
        return self.path / "patch.student.safetensors"

    @property
    def adapter(self) -> Path:
        """The teacher as a low-rank adapter for diffusers; only where a rank was asked for."""
        return self.path / "adapter.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Where an interrupted training goes on."""
        return self.path / "checkpoint.safetensors"

    @property
    def training(self) -> Path:
        """One JSON line per optimiser step."""
        return self.path / "training.jsonl"

    @property
    def tracking(self) -> Path:
        """What experiment trackers write."""
        return self.path / "tracking"

    @property
    def engine(self) -> Path:
        """The exported UNet."""
        return self.path / "engine"

    @property
    def release(self) -> Path:
        """The folder that is deployed."""
        return self.path / "release"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def verdict(self, subject: str) -> Path:
        """The gate's report on one subject."""
        return self.path / f"verdict.{subject.replace(' ', '-')}.json"

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        write_text(self.path / name, text)


def open_run(plan: Plan, path: Path, resume: bool) -> RunFolder:
    """The folder of this plan's run: a new one, or with ``resume`` one that was begun.

    Raises:
        UsageError: the folder exists and holds another run, or a run and ``resume`` is off.
        Inconclusive: it cannot be written.
    """
    require_run(path, plan, resume)
    folder = RunFolder(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"sha256": plan.sha256, "plan": plan.to_json()}, indent=1)
        folder.write_text("plan.json", text + "\n")
        folder.write_text("environment.json", json.dumps(environment(), indent=1) + "\n")
    return folder


def require_run(path: Path, plan: Plan, resume: bool) -> None:
    """A run's folder is new, empty, or with ``resume`` that of the same plan.

    Raises:
        UsageError: it is not.
    """
    existing = path / "plan.json"
    if path.is_file():
        raise UsageError(f"{path}: is a file, not a folder", "choose another --out")
    if not path.exists() or is_empty(path):
        return
    if not existing.exists():
        raise UsageError(f"{path}: exists and is not a run", "choose another --out")
    if not resume:
        raise UsageError(f"{path}: already holds a run", "add --resume, or choose another --out")
    if json.loads(existing.read_text())["sha256"] != plan.sha256:
        raise UsageError(
            f"{path}: holds a run of another plan (the policy changed since)",
            "choose another --out",
        )


def require_verification(path: Path) -> None:
    """A verification's folder is new, empty, or that of one that was begun, and of nothing else.

    Raises:
        UsageError: it holds a run or a combination's gate, whose report would be replaced, a
            comparison, or files of somebody else.
    """
    if path.is_file():
        raise UsageError(f"{path}: is a file, not a folder", "choose another --out")
    if not path.exists() or is_empty(path):
        return
    if (path / "plan.json").exists():
        raise UsageError(
            f"{path}: holds a run of safediff erase, not a verification", "choose another --out"
        )
    folder = path.resolve()
    if folder.parent.name == GATES and RunFolder(folder.parents[1]).patch.exists():
        raise UsageError(
            f"{path}: holds a gate of safediff combine, not a verification", "choose another --out"
        )
    if any((path / name).exists() for name in ("clock.json", "costs", "patches")):
        raise UsageError(
            f"{path}: holds a comparison of safediff compare, not a verification",
            "choose another --out",
        )
    if not any((path / name).exists() for name in ("journal.jsonl", "sessions.jsonl")):
        raise UsageError(f"{path}: exists and is not a verification", "choose another --out")


def default_run(plan: Plan, resume: bool) -> tuple[Path, bool]:
    """``runs/<policy>/<first 8 of the plan's hash>[-2, -3, ...]``; runs are never overwritten.

    Also whether the folder was made for this run.
    """
    stem = Path("runs") / plan.name / plan.sha256[:8]
    if not resume:
        return make_free(stem), True
    latest = stem
    number = 2
    while (later := stem.with_name(f"{stem.name}-{number}")).exists():
        latest, number = later, number + 1
    return latest, False


def make_free(stem: Path) -> Path:
    """A new folder: ``stem``, or ``stem-2``, ``stem-3``, ... where that exists.

    Raises:
        Inconclusive: it can't be made.
    """
    path, number = stem, 1
    with writing(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                path.mkdir()
            except FileExistsError:  # another process may have been a moment faster
                number += 1
                path = stem.with_name(f"{stem.name}-{number}")
            else:
                return path


def write_text(path: Path, text: str, next_step: str = FREE_SPACE) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path, next_step):
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, next_step: str = FREE_SPACE) -> Iterator[None]:
    """Turn what the disk says into one line; ``next_step`` is for work that can go on."""
    try:
        yield
    except OSError as error:
        raise Inconclusive(
            f"{path}: cannot be written ({error.strerror or error})", next_step
        ) from error


def append_json(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, sort_keys=True) + "\n")


def read_training(path: Path, before_step: int | None = None) -> list[dict[str, Any]]:
    """The steps logged so far; a torn last line and steps from ``before_step`` on are left out."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if before_step is not None and row["step"] >= before_step:
            break
        rows.append(row)
    return rows
