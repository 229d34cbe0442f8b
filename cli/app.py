"""The entry of the command line: registers the verbs and decides the exit code, once.

Verbs raise outcomes (``safediff.errors``) and never return or exit with a code: Typer turns
anything unforeseen into 1, which here means "policy violated" and nothing else. This module
imports the standard library only, since an ImportError before ``main`` would also exit with 1.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from safediff.errors import PolicyError, SafediffError, lacking_memory

if TYPE_CHECKING:
    from typer import Typer

VERBS = (
    "init",
    "validate",
    "schema",
    "plan",
    "erase",
    "combine",
    "verify",
    "explain",
    "compare",
    "diff",
    "report",
    "export",
    "sign",
    "serve",
    "generate",
    "doctor",
)
"""Each is the function of that name in ``safediff.cli.<verb>``, which must import quickly: torch
and what needs it is imported inside the function."""

INCONCLUSIVE, INTERRUPTED = 3, 130
_FROM_TYPER = (0, 2, INCONCLUSIVE, INTERRUPTED)


def build_app() -> "Typer":
    """The Typer application with every verb."""
    import typer

    from safediff import __version__

    app = typer.Typer(
        name="safediff",
        help="Make a text-to-image diffusion model meet a policy, and measure that it does.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"auto_envvar_prefix": "SAFEDIFF"},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            print(f"safediff {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False,
            "--version",
            callback=show_version,
            is_eager=True,
            allow_from_autoenv=False,  # SAFEDIFF_VERSION may well be set for other reasons
            help="Show the version.",
        ),
    ) -> None:
        pass

    for verb in VERBS:
        app.command(verb)(getattr(import_module(f"safediff.cli.{verb}"), verb))
    return app


def main() -> int:
    """Run the command line and return the exit code: 0, 1, 2, 3 or 130.

    After an error in one of several processes it doesn't return but ends this one with that code.
    """
    code = _told()
    if _others_are_at_work():  # destructors of NCCL and Python's own end would wait for them
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def _told() -> int:
    """Run the command line and say on stderr what went wrong."""
    try:
        with _closed_pipe_told():
            return _run()
    except SafediffError as error:
        return _say_outcome(error)
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except OSError as error:
        _say(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
    except Exception as error:
        if told := lacking_memory(error):
            return _say_outcome(told)
        from safediff.cli.crash import write_crash_log

        _say(f"internal error: {error!r}; details: {write_crash_log(error)}")
    return INCONCLUSIVE


def _run() -> int:
    try:
        build_app()()
    except SystemExit as stop:
        code = stop.code or 0
        if code == INTERRUPTED:  # typer has caught Ctrl-C and says nothing
            _say("interrupted")
        return code if isinstance(code, int) and code in _FROM_TYPER else INCONCLUSIVE
    return 0


def _others_are_at_work() -> bool:
    """Whether this process left its group early: one that did its work has parted from it."""
    dist: Any = sys.modules.get("torch.distributed")  # imported by now, or there is no group
    return dist is not None and dist.is_available() and dist.is_initialized()


@contextmanager
def _closed_pipe_told() -> Iterator[None]:
    """Flush stdout while the exit code can still be chosen; Python's own attempt ends with 120."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_outcome(error: SafediffError) -> int:
    """Message and next step; gives the exit code."""
    _say(str(error) if isinstance(error, PolicyError) else f"error: {error}")
    if error.next_step:
        _say(f"  next: {error.next_step}")
    return error.exit_code


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
