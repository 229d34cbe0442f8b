"""Checkpoints of a training run: atomic, without pickle, complete enough for equal bytes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safediff.erase.weights import Student
from safediff.errors import Inconclusive, UsageError
from safediff.models.patch import save_whole

ANEW = "choose another --out, to start again"


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    num_rollouts: int
    step: int
    num_passes: int
    """UNet sample passes so far (a forward of one sample; forward and backward count three)."""
    seconds: float = 0.0
    """Of every attempt up to its last checkpoint; not of what was lost with it."""
    process_seconds: float = 0.0
    """Likewise, times the processes of each attempt."""


def save_checkpoint(
    path: Path,
    progress: Progress,
    key: str,
    student: Student,
    teacher: list[Tensor],
    left: Tensor,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that the next step depends on. ``key`` identifies the plan.

    ``teacher`` is empty where there is no moving average.

    Raises:
        Inconclusive: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {"left.0": left}
    for index, value in enumerate(student.values):
        tensors[f"student.{index}"] = value.detach()
    for index, value in enumerate(teacher):
        tensors[f"teacher.{index}"] = value
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = value
    meta = {"progress": asdict(progress), "key": key}
    save_whole(tensors, path, {"checkpoint": json.dumps(meta)})


def load_checkpoint(
    path: Path,
    key: str,
    student: Student,
    teacher: list[Tensor],
    left: Tensor,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Restore a run in place.

    Raises:
        UsageError: the checkpoint belongs to another plan, or does not say what it took.
        Inconclusive: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["checkpoint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise Inconclusive(f"{path}: damaged checkpoint: {error}", ANEW) from error
    if meta["key"] != key:
        raise UsageError(
            f"{path}: belongs to another plan (policy, model or safediff version changed)",
            ANEW,
        )
    if meta["progress"].keys() != asdict(Progress(0, 0, 0)).keys():
        raise UsageError(
            f"{path}: is of an earlier safediff, whose checkpoints do not say what they took",
            ANEW,
        )
    state: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        for name, value in tensors.items():
            kind, index, *rest = name.split(".")
            if kind == "student":
                student.values[int(index)].copy_(value)
            elif kind == "teacher":
                teacher[int(index)].copy_(value)
            elif kind == "left":
                left.copy_(value)
            else:
                state.setdefault(int(index), {})[rest[0]] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
    return Progress(**meta["progress"])
