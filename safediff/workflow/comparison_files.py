"""Files of a comparison, by their extension."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safediff.compare.markdown import markdown
from safediff.compare.picture import compose
from safediff.compare.rows import POLICY
from safediff.compare.table import Comparison, erasure_checks, to_json
from safediff.compare.tradeoff import Plot, marks, tradeoff_plots
from safediff.errors import UsageError
from safediff.sample.sampler import Draw
from safediff.verify.album import Album
from safediff.workflow.evidence import spread
from safediff.workflow.run_folder import write_text, writing

SUFFIXES = (".json", ".md", ".png", ".svg")
COLUMNS_PER_KIND = 4


def check_outputs(paths: Sequence[Path]) -> None:
    """Refuse unknown formats before anything is measured.

    Raises:
        UsageError: an extension that no format has.
    """
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise UsageError(f"-o {path}: unknown format", f"end it in {', '.join(SUFFIXES)}")


def refuse_pictures(paths: Sequence[Path], table: Path) -> None:
    """Refuse a picture where nothing is drawn, as every row stands in a table already.

    Raises:
        UsageError: there is such a path.
    """
    for path in paths:
        if path.suffix == ".png":
            raise UsageError(
                f"-o {path}: {table} has all these rows, so nothing is drawn",
                "leave it out, or name rows to measure again: --rows ID",
            )


def write_outputs(
    comparison: Comparison, albums: Mapping[str, Album], paths: Sequence[Path]
) -> None:
    """Write every file whole or not at all.

    Raises:
        Inconclusive: a file cannot be written.
    """
    for path in paths:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            write_text(path, json.dumps(to_json(comparison), indent=1, sort_keys=True) + "\n")
        elif path.suffix == ".md":
            write_text(path, markdown(comparison))
        elif path.suffix == ".svg":
            write_text(path, _tradeoff(comparison))
        else:
            _write_picture(comparison, albums, path)


def _tradeoff(comparison: Comparison) -> str:
    """The worst of the erasure bounds that decide against every retention group."""
    verify, entries = comparison.plan.verify, comparison.entries
    erasure, _ = erasure_checks(comparison)
    plots = [
        Plot(
            group.name,
            marks(entries, erasure, f"retention/{group.name}", POLICY),
            group.min_ratio,
        )
        for group in verify.retention
    ]
    return tradeoff_plots(plots, f"{comparison.plan.name}: all systems", verify.erasure.max_rate)


def _write_picture(comparison: Comparison, albums: Mapping[str, Album], path: Path) -> None:
    columns = _chosen(comparison)
    drawn = [entry for entry in comparison.entries if entry.id in albums]  # now, not earlier
    picture = compose(
        [entry.title for entry in drawn],
        [draw.prompt for draw in columns],
        [albums[entry.id].of(columns) for entry in drawn],
    )
    with writing(path):
        temporary = path.with_name(f".{path.name}.tmp")
        picture.save(temporary, format="PNG")
        temporary.replace(path)


def _chosen(comparison: Comparison) -> list[Draw]:
    """Some of the prompts of each kind of check."""
    plan = comparison.plan
    erased = [p.prompt for concept in plan.concepts for p in concept.prompts]
    kept = [p.prompt for check in plan.verify.retention for p in check.prompts]
    return [
        draw
        for prompts in (erased, kept)
        for draw in spread([Draw(prompt) for prompt in prompts], COLUMNS_PER_KIND)
    ]
