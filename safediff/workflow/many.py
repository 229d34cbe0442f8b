"""Several policies one after another, each base loaded once; one that fails loses no other's."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from safediff.errors import (
    Inconclusive,
    PolicyViolated,
    SafediffError,
    UsageError,
    lacking_memory,
)
from safediff.gate.verdict import Verdict
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.policy.plan import ModelPlan, Plan
from safediff.sample.shards import ALONE, Shards
from safediff.workflow.erase import Outcome, erase
from safediff.workflow.held_folders import held_run
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.ui import Ui


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of one policy."""

    plan: Plan
    run: RunFolder
    seconds: float
    outcome: Outcome | None = None
    error: SafediffError | None = None
    """Why there is no outcome."""

    @property
    def verdict(self) -> Verdict:
        """That of the gate; INCONCLUSIVE where it never came to one."""
        return self.outcome.verdict if self.outcome else Verdict.INCONCLUSIVE

    @property
    def exit_code(self) -> int:
        """What the policy alone would have ended with."""
        return self.error.exit_code if self.error else self.verdict.exit_code


def check_names(plans: Sequence[Plan]) -> None:
    """Policies are told apart by their names.

    Raises:
        UsageError: two have the same.
    """
    names = [plan.name for plan in plans]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two policies are named {twice!r}", "give each a name of its own, and each file once"
        )


def erase_all(
    plans: Sequence[Plan],
    out: Path | None,
    resume: bool,
    ui: Ui,
    *,
    shards: Shards = ALONE,
    trackers: Sequence[str] = (),
) -> list[Attempt]:
    """Erase each plan in a run folder of its own; all folders are opened first.

    Plans of one model follow each other, so that it is loaded once; what came of them is given in
    the order of ``plans``. Of several plans, one that fails is noted and the next one begun.
    Several processes stop instead: an error may have struck one of them only.

    Args:
        plans: What to do.
        out: Of one plan the run folder; of several, the folder that holds them, by name.
        resume: Go on with earlier runs; a plan that has none begins.
        ui: Shows progress.
        shards: The processes.
        trackers: Experiment trackers that are told of every step.

    Raises:
        SafediffError: a folder cannot be opened, or the only plan failed.
    """
    check_names(plans)
    one = len(plans) == 1
    places = [out if one or out is None else out / plan.name for plan in plans]
    with ExitStack() as held:
        runs = [
            held.enter_context(held_run(plan, place, resume, shards))
            for plan, place in zip(plans, places, strict=True)
        ]
        return _erase_each(plans, runs, ui, shards, trackers)


def _erase_each(
    plans: Sequence[Plan],
    runs: Sequence[RunFolder],
    ui: Ui,
    shards: Shards,
    trackers: Sequence[str],
) -> list[Attempt]:
    """Erase the plans in the folders that are theirs, by model."""
    one = len(plans) == 1
    found: dict[int, Attempt] = {}
    base: Backbone | None = None
    loaded: ModelPlan | None = None
    for number, index in enumerate(by_model(plans)):
        plan, run = plans[index], runs[index]
        if not one:
            ui.say(f"policy {number + 1} of {len(plans)}: {plan.name}, {run.path}")
        began = time.monotonic()
        outcome = error = None
        try:
            if base is None or plan.model != loaded:
                base = None  # two models need not fit at a time
                base, loaded = load_backbone(plan.model), plan.model
            outcome = erase(plan, run, ui, shards=shards, trackers=trackers, base=base)
        except Exception as raised:
            if one or shards.count > 1:
                raise
            error = as_told(raised)
            ui.say(f"error: policy {plan.name}: {error}")
        seconds = time.monotonic() - began
        found[index] = Attempt(plan=plan, run=run, seconds=seconds, outcome=outcome, error=error)
    return [found[index] for index in range(len(plans))]


def by_model(plans: Sequence[Plan]) -> list[int]:
    """Indices of ``plans``: those of one model together, models and their plans as they come."""
    models = [plan.model for plan in plans]
    return sorted(range(len(plans)), key=lambda index: models.index(models[index]))


def as_told(error: Exception) -> SafediffError:
    """The error, or what stands for one that nobody foresaw."""
    if isinstance(error, SafediffError):
        return error
    return lacking_memory(error) or Inconclusive(
        f"internal error: {error!r}", "run this policy alone with --resume for the details"
    )


def end_of(attempts: Sequence[Attempt]) -> None:
    """Raise the worst outcome: 1 (not met) outranks 3 (undecided) outranks 2 (wrong input).

    Raises:
        PolicyViolated: a policy is not met.
        Inconclusive: one could not be decided.
        UsageError: one could not be run as asked.
    """
    kinds = (
        (1, PolicyViolated, "not met"),
        (3, Inconclusive, "undecided"),
        (2, UsageError, "not run"),
    )
    told = [
        (kind, f"{', '.join(names)} {what}")
        for code, kind, what in kinds
        if (names := [a.plan.name for a in attempts if a.exit_code == code])
    ]
    if told:
        kind = told[0][0]
        raise kind(
            f"of {len(attempts)} policies: {'; '.join(text for _, text in told)}",
            "see the reports, or the same command with --resume to go on",
        )
