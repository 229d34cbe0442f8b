"""Errors raised by safediff; each carries the exit code that the command line ends with.

SafediffError
  - PolicyViolated   exit 1: a check failed
  - UsageError       exit 2: a flag, a file or a policy is wrong
      - PolicyError  exit 2: the policy; carries every problem found in it
  - Inconclusive     exit 3: something could not be measured, loaded or written
      - Unwritten    likewise, or exit 1: all was decided, but the reports can't be written

Messages are one line: what, where, what was expected; ``next_step`` says what to do.
"""

from collections.abc import Sequence
from typing import Any

GO_ON = (
    "the same command with the run's folder as --out goes on from here (safediff erase: with "
    "--resume)"
)
"""Next step after work was cut off."""
MAKE_ROOM = "free some space or let the folder be written to"
"""Next step where a file that is made at once can't be written."""
FREE_SPACE = f"{MAKE_ROOM}; {GO_ON}"
"""Next step where a file of a run can't be written."""


class SafediffError(Exception):
    """Base of all errors that safediff raises on purpose."""

    exit_code = 3

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


class PolicyViolated(SafediffError):
    """A check of the policy failed."""

    exit_code = 1


class UsageError(SafediffError):
    """The command line, a file or a policy is wrong."""

    exit_code = 2


class PolicyError(UsageError):
    """The policy is wrong; ``problems`` holds every finding, formatted with file:line:column."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class Inconclusive(SafediffError):
    """A measurement could not be made, so nothing may be claimed."""

    exit_code = 3


class Unwritten(Inconclusive):
    """Reports can't be written; ``reports`` holds them (of ``safediff.gate.verdict``).

    A policy that is not met stays the outcome.
    """

    def __init__(self, error: Inconclusive, reports: Sequence[Any], not_met: str = "") -> None:
        """``not_met`` names the policy, if it is not met."""
        told = f"policy {not_met} is not met; {error}" if not_met else str(error)
        super().__init__(told, error.next_step)
        self.reports, self.reason = tuple(reports), error
        if not_met:
            self.exit_code = PolicyViolated.exit_code


def lacking_memory(error: BaseException) -> Inconclusive | None:
    """What to say where an error means that memory was too small; None for any other.

    PyTorch's, of a GPU, is known by its name: it is no ``MemoryError``, and importing its class
    would take seconds.
    """
    if type(error).__name__ == "OutOfMemoryError":
        return Inconclusive(
            "out of memory on the GPU",
            "safediff plan POLICY says what fits; lower verify.sampling.batch_size, or set "
            "model.dtype, gradient_checkpointing and micro_batch (docs/memory.md)",
        )
    if isinstance(error, MemoryError):
        return Inconclusive("out of memory", "lower verify.sampling.batch_size in the policy")
    return None


def first_line(error: BaseException) -> str:
    """What an error says, for a message of one line: its first line, at most 200 characters."""
    return (str(error).strip() or repr(error)).splitlines()[0][:200]
