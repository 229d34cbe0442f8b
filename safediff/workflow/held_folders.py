"""The folder that a command works in, for it alone from before its first byte to its end.

Of several processes, process 0 keeps it for all.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safediff.errors import Inconclusive
from safediff.folder_lock import held
from safediff.policy.plan import Plan
from safediff.sample.shards import Shards
from safediff.workflow.run_folder import (
    RunFolder,
    default_run,
    make_free,
    open_run,
    require_run,
    require_verification,
)


@contextmanager
def held_run(plan: Plan, out: Path | None, resume: bool, shards: Shards) -> Iterator[RunFolder]:
    """The folder of a plan's run; of several processes each sees it.

    Args:
        plan: What the run is of.
        out: Where; None: a new default, or with ``resume`` the latest one.
        resume: Go on with a run that was begun.
        shards: The processes.

    Raises:
        UsageError: as ``open_run``; or another process is at work there.
        Inconclusive: it cannot be written, or is not seen by this process; another has ended.
    """
    with ExitStack() as stack:

        def take() -> str:
            if out is not None:
                require_run(out, plan, resume)  # nothing is left in a folder of somebody else
            path, made = (out, False) if out is not None else default_run(plan, resume)
            stack.enter_context(held(path, made=made))
            return str(open_run(plan, path, resume).path)  # looks again: it may have changed hands

        found = shards.agree("run folder", take)
        if not (Path(found) / "plan.json").exists():
            raise Inconclusive(
                f"{found}: process {shards.rank} does not see what process 0 wrote there",
                "choose an --out on a file system that all machines share",
            )
        yield RunFolder(Path(found))


@contextmanager
def held_verification(out: Path | None, stem: Path, shards: Shards) -> Iterator[Path]:
    """The folder of a verification, which process 0 keeps for all of them until the block ends.

    Args:
        out: Which one; None: ``stem``, or the first of ``stem-2``, ``stem-3``, ... that is free.
        stem: The default.
        shards: The processes.

    Raises:
        UsageError: as ``require_verification``; or another process is at work there.
        Inconclusive: it cannot be written, or another process has ended.
    """
    with ExitStack() as stack:

        def take() -> str:
            path = out or make_free(stem)
            require_verification(path)
            stack.enter_context(held(path, made=out is None))
            require_verification(path)  # again: it may have changed hands
            return str(path)

        yield Path(shards.agree("folder", take))


@contextmanager
def held_folder(path: Path, shards: Shards) -> Iterator[None]:
    """Process 0 keeps a folder for all of them until the block ends.

    Raises:
        UsageError: another process is at work there.
        Inconclusive: it cannot be written, or another process has ended.
    """
    with ExitStack() as stack:
        shards.agree("folder", lambda: stack.enter_context(held(path)))
        yield
