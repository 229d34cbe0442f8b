"""Experiment trackers of accelerate (TensorBoard, Weights & Biases, ...): numbers of every step.

They get settings and losses; no text of a policy and no picture. Only process 0 tells them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from safediff.erase.params import DistilParams
from safediff.erase.trainer import OnStep, StepInfo
from safediff.errors import UsageError
from safediff.policy.plan import Plan
from safediff.policy.problems import did_you_mean
from safediff.workflow.run_folder import RunFolder, writing


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what could not track, before anything is loaded.

    Raises:
        UsageError: there is no such tracker, or its package is not installed.
    """
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(
                f"--track: there is no tracker {name!r}{did_you_mean(name, LOGGER_TYPE_TO_CLASS)}",
                f"use {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}",
            )
        if name not in available:
            extra = "safediff[track]" if name == "tensorboard" else name
            raise UsageError(f"--track {name}: is not installed", f"pip install '{extra}'")


@contextmanager
def tracking(
    names: Sequence[str], plan: Plan, params: DistilParams, run: RunFolder
) -> Iterator[OnStep]:
    """What to call with every step; trackers that write files write them into the run's folder.

    Raises:
        UsageError: there is no such tracker, or its package is not installed.
    """
    if not names:
        yield lambda info: None
        return
    check_trackers(names)
    with writing(run.tracking):
        run.tracking.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(log_with=list(names), project_dir=str(run.tracking))
    settings = {"method": plan.erase.method, "preset": plan.erase.preset, "seed": plan.erase.seed}
    # W&B would write into the current folder, and send along what the terminal shows
    own = {"wandb": {"dir": str(run.tracking), "settings": {"console": "off"}}}
    accelerator.init_trackers(plan.name, {**settings, **asdict(params)}, own)

    def track(info: StepInfo) -> None:
        values = {k: v for k, v in asdict(info).items() if k not in ("step", "num_steps")}
        shown = {name: value for name, value in values.items() if value is not None}
        accelerator.log(shown, step=info.step)

    try:
        yield track
    finally:
        for tracker in accelerator.trackers:  # end_training would end the other processes, too
            tracker.finish()
