"""``safediff verify``: the gate, for people and for CI."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from safediff.errors import Unwritten, UsageError
from safediff.report.formats import Format, format_of
from safediff.report.rules import policy_uri


class FailOn(StrEnum):
    """From what on the command ends with 1."""

    FAIL = "fail"
    WARN = "warn"
    NEVER = "never"


def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="embedded, a run, a release, a diffusers folder or a hub id."
        ),
    ],
    policy: Annotated[
        Path | None, typer.Argument(metavar="POLICY", help="Policy file; not with --certificate.")
    ] = None,
    format: Annotated[Format, typer.Option(help="What stdout shows.")] = Format.RICH,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Also write FILE, as its extension says: .json .xml .sarif .md .html; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for journal, pictures and report, new or of the same verification, which "
            "goes on; runs/<policy>/verify-N if not given.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
    engine: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN",
            help="TensorRT plan of the release MODEL (engines/NAME.plan), on its GPU.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Check the release MODEL against its certificate instead: files, journal, every "
            "check; no model is loaded.",
        ),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --certificate: who must have signed, PEM."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="safediff-baseline.json: end with 1 where a check is worse beyond noise.",
        ),
    ] = None,
    update_baseline: Annotated[
        bool,
        typer.Option(
            "--update-baseline", help="Write the baseline instead, and show what changed."
        ),
    ] = False,
    fail_on: Annotated[
        FailOn,
        typer.Option(
            allow_from_autoenv=False,  # no variable changes what is told
            help="From what on to end with 1; never: not at all.",
        ),
    ] = FailOn.FAIL,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", allow_from_autoenv=False, help="As --fail-on never.")
    ] = False,
    fail_on_warn: Annotated[
        bool, typer.Option("--fail-on-warn", help="As --fail-on warn.")
    ] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")
    ] = False,
) -> None:
    """Measure a model against a policy, or check a release against its certificate.

    Under torchrun all processes share the drawing.

    Exit code: 0 the policy is met, 1 it is not, 2 wrong input, 3 it could not be decided, or
    something does not match the certificate.
    """
    exit_zero = exit_zero or fail_on is FailOn.NEVER
    fail_on_warn = fail_on_warn or fail_on is FailOn.WARN
    files = {path: format_of(path) for path in output or ()}
    if certificate is not None:
        if policy or out or revision or engine or baseline or update_baseline:
            raise UsageError(
                "--certificate takes no POLICY, --out, --revision, --engine or baseline: nothing "
                "is measured",
                "safediff verify --certificate FILE RELEASE",
            )
        from safediff.cli.certified import check_release

        check_release(
            certificate,
            Path(model),
            public_key,
            format=format,
            files=files,
            exit_zero=exit_zero,
            fail_on_warn=fail_on_warn,
            quiet=quiet,
        )
        return
    if policy is None or public_key is not None:
        missing = "'POLICY'" if policy is None else "--certificate"
        raise UsageError(
            f"Missing argument {missing}",
            "safediff verify MODEL POLICY, or safediff verify --certificate FILE RELEASE",
        )
    if update_baseline and baseline is None:
        raise UsageError("--update-baseline needs --baseline FILE", "name the file to write")
    from safediff.cli.against_baseline import known_baseline, update
    from safediff.cli.progress import RichUi
    from safediff.cli.quiet_libraries import quiet_libraries
    from safediff.policy.load import load_plan
    from safediff.workflow.run_folder import require_verification

    plan = load_plan(policy)
    known = known_baseline(baseline, update_baseline, quiet)
    if out is not None:
        require_verification(out)
    quiet_libraries()
    from safediff.cli.outcome import end, publish, violation_first
    from safediff.gate.verdict import combined
    from safediff.sample.shards import sharded
    from safediff.workflow.held_folders import held_verification
    from safediff.workflow.hub_prompts import with_hub_prompts
    from safediff.workflow.verify import verify as run_verify

    plan = with_hub_prompts(plan)
    unwritten = None
    try:
        with sharded() as shards:
            for note in () if quiet or not shards.leads else plan.notes:
                typer.echo(f"note: {note}", err=True)
            stem = Path("runs") / plan.name / "verify"
            old = None if update_baseline else known
            with (
                held_verification(out, stem, shards) as folder,
                RichUi(quiet or no_progress or not shards.leads) as ui,
            ):
                reports = run_verify(plan, model, revision, folder, ui, old, shards, engine)
    except Unwritten as error:  # of process 0; the group is left as after any error
        reports, unwritten = list(error.reports), error.reason
    if not shards.leads:
        return  # process 0 speaks for all
    told = partial(
        end,
        reports,
        combined(reports),
        next_step=f"open {folder / 'report.html'}",
        exit_zero=exit_zero,
        fail_on_warn=fail_on_warn,
    )
    with violation_first(told):
        if unwritten is not None:
            raise unwritten
        uri = policy_uri(policy)
        publish(reports, uri, folder=folder, format=format, files=files, quiet=quiet)
        if baseline is not None:
            update(baseline, known, plan, reports, folder, write=update_baseline, quiet=quiet)
    told()
