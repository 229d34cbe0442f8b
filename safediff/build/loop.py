"""The training loop that the stages of the build share: cosine schedule, EMA, resumable."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

Loss = Callable[[torch.Generator], Tensor]
"""Draws a batch with the generator and returns the loss, shape ()."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast one stage trains."""

    num_steps: int
    learning_rate: float
    weight_decay: float = 1e-2
    num_warmup_steps: int = 100
    ema_decay: float = 0.999
    save_every: int = 250
    seed: int = 0

    def factor(self, step: int) -> float:
        """Linear warm-up, then cosine to zero."""
        warm = min(1.0, (step + 1) / self.num_warmup_steps)
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.num_steps))


def train(
    module: nn.Module, loss_of: Loss, schedule: Schedule, folder: Path, label: str
) -> dict[str, Tensor]:
    """Train ``module`` to the end of ``schedule`` and return its EMA state dict.

    A checkpoint in ``folder`` is continued; a finished stage returns at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        module.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    ema = {key: value.detach().clone() for key, value in module.state_dict().items()}
    start = _resume(folder, module, optimizer, ema)
    began, seen, running = time.monotonic(), 0, 0.0
    for step in range(start, schedule.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * schedule.factor(step)
        generator = torch.Generator().manual_seed(schedule.seed + step)
        loss = loss_of(generator)
        loss.backward()
        clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _update(ema, module, min(schedule.ema_decay, (step + 1) / (step + 10)))
        seen, running = seen + 1, running + loss.item()
        if (step + 1) % 100 == 0:
            pace = (time.monotonic() - began) / seen
            left_min = (schedule.num_steps - step - 1) * pace / 60
            print(
                f"{label} step {step + 1}/{schedule.num_steps} loss {running / 100:.4f}"
                f" {pace * 1e3:.0f} ms/step {left_min:.1f} min left",
                flush=True,
            )
            running = 0.0
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.num_steps:
            _save(folder, step + 1, module, optimizer, ema)
    return ema


@torch.no_grad()
def _update(ema: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            ema[key].lerp_(value, 1 - decay)
        else:
            ema[key].copy_(value)


def _save(
    folder: Path,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
) -> None:
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    temporary = folder / "checkpoint.tmp"
    save_file(
        {k: v.contiguous().clone() for k, v in tensors.items()},
        temporary,
        metadata={"step": json.dumps(step)},
    )
    os.replace(temporary, folder / "checkpoint.safetensors")


def _resume(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor]
) -> int:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(json.loads(file.metadata()["step"]))
    tensors = load_file(path)
    module.load_state_dict(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    )
    for key in ema:
        ema[key].copy_(tensors[f"ema.{key}"])
    state = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    return step
