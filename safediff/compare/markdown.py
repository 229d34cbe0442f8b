"""The comparison as Markdown, with how it is to be read."""

from collections.abc import Sequence

from safediff.compare.entry import Entry
from safediff.compare.rows import OTHER_SEED, ROWS
from safediff.compare.standing import told
from safediff.compare.table import Column, Comparison, columns, concept_columns
from safediff.gate.numbers import show
from safediff.policy.plan import RetentionCheck


def markdown(comparison: Comparison) -> str:
    """The table with what it rests on."""
    lines = [f"# {comparison.plan.name}: all systems, one protocol", ""]
    lines += [*_markdown_table(comparison, columns(comparison)), ""]
    if by_concept := concept_columns(comparison):
        lines += ["## Concept by concept", ""]
        lines += [f"Rate with its {_upper(comparison)}, from the same pictures.", ""]
        lines += [*_markdown_table(comparison, by_concept), "", "## How to read it", ""]
    return "\n".join([*lines, *notes(comparison), ""])


def _markdown_table(comparison: Comparison, chosen: Sequence[Column]) -> list[str]:
    return [
        "| " + " | ".join(column.heading for column in chosen) + " |",
        "|" + "---|" * len(chosen),
        *(
            "| " + " | ".join(column.cell(entry) for column in chosen) + " |"
            for entry in comparison.entries
        ),
    ]


def notes(comparison: Comparison) -> list[str]:
    """How the table is to be read."""
    sampling = comparison.plan.verify.sampling
    reference = comparison.reference
    n = len(reference.hits)
    facts = comparison.facts
    return [
        f"Erasure: rate with its {_upper(comparison)} (n = {n} prompts), corrected for the "
        "judge; the same prompts, latents and judge in every row. p: exact McNemar test of these "
        f'prompts against "{reference.title}", adjusted over the rows (Holm).',
        "",
        *_retention(comparison.plan.verify.retention),
        f"FID, KID (mean ± standard deviation over subsets), LPIPS and the CLIP-like score (in "
        f"brackets its change) compare kept pictures with the base's, on {_features(comparison)}.",
        "",
        f"Sampling: {sampling.num_steps} steps of the model's scheduler, guidance "
        f"{sampling.guidance_scale:g}, seed {sampling.seed}. Guards whose warm-up is counted in "
        "steps use the published counts. Published settings are used as published, on a model "
        "that they were not chosen for; rows marked fitted use settings that were chosen on the "
        "embedded model.",
        "",
        *told(comparison),
        *_spread(comparison),
        *_time(comparison.entries),
        *_left_out(comparison),
        *(f"- {name}: {value}" for name, value in facts.items()),
        *_origins(comparison),
    ]


def _upper(comparison: Comparison) -> str:
    """The bound of the erasure rates."""
    return f"one-sided {_percent(comparison.plan.verify.erasure.confidence)} upper bound"


def _retention(groups: Sequence[RetentionCheck]) -> list[str]:
    """What retention is, at the confidence of all groups or, where they differ, of each."""
    if not groups:
        return []
    levels = {group.name: _percent(group.confidence) for group in groups}
    bound = f"one-sided {levels[groups[0].name]} lower bound"
    if len(set(levels.values())) > 1:
        each = ", ".join(f"{name} {level}" for name, level in levels.items())
        bound = f"one-sided lower bound ({each})"
    return [f"Retention: P(right | row) / P(right | base) with its {bound}, paired."]


def _percent(confidence: float) -> str:
    return f"{100 * confidence:g} %"


def _origins(comparison: Comparison) -> list[str]:
    """What rows of other runs were measured with, where that differs from the facts of the last."""
    rows: dict[str, list[str]] = {}
    for entry in comparison.entries:
        made, facts = entry.setup.made_with, comparison.facts
        other = [f"{k} {v}" for k, v in made.items() if k != "date" and facts.get(k) != v]
        when = made.get("date", "on a day that was not noted, like the versions")
        rows.setdefault(", ".join([f"measured {when}", *other]), []).append(entry.id)
    return [f"- rows {', '.join(ids)}: {said}" for said, ids in rows.items()]


def _left_out(comparison: Comparison) -> list[str]:
    """The rows that are missing, and why."""
    plan, missing = comparison.plan, comparison.left_out
    if not missing:
        return []
    lines = (f"- {ROWS[id].title_for(plan)} (`{id}`): {why}" for id, why in missing.items())
    return ["Not measured, since this model does not allow it:", "", *lines, ""]


def _features(comparison: Comparison) -> str:
    """What quality was measured on, as the policy says."""
    chosen = {check.metric: check.features for check in comparison.plan.verify.quality}
    others = [f"{metric.upper()} on {name}" for metric, name in chosen.items() if name != "judge"]
    return "the judge's features" + (f" ({', '.join(others)})" if others else "")


def _spread(comparison: Comparison) -> list[str]:
    """How far apart two training seeds of the policy's own row end."""
    other = next((entry for entry in comparison.entries if entry.id == OTHER_SEED), None)
    if other is None:
        return []
    pairs = [
        f"{id.partition('/')[2]} {show(own.estimate)} and {show(other.checks[id].estimate)}"
        for id, own in comparison.reference.checks.items()
        if id.startswith(("erasure/", "retention/")) and id in other.checks
        if own.estimate is not None
    ]
    return [f"Erased with two training seeds: {'; '.join(pairs)}.", ""]


def _time(entries: Sequence[Entry]) -> list[str]:
    """How long the rows took; two of one training share its seconds."""
    timed = [entry for entry in entries if entry.setup.measure_seconds]
    if not timed:
        return []
    erase = {(e.setup.method, e.setup.preset, e.setup.seed, repr(e.setup.knobs)): e for e in timed}
    seconds = sum(entry.erase_seconds for entry in erase.values())
    drawing = sum(entry.setup.measure_seconds for entry in timed)
    threads = "/".join(str(n) for n in sorted({entry.setup.threads for entry in timed}))
    which = "All rows" if len(timed) == len(entries) else f"{len(timed)} of {len(entries)} rows"
    return [
        f"{which} took {(seconds + drawing) / 60:.0f} minutes: {seconds / 60:.0f} of erasing and "
        f"{drawing / 60:.0f} of drawing, judging and attacking, on {threads} thread"
        f"{'' if threads == '1' else 's'}; what else the machine did is not known."
        + _side_by_side(timed),
        "",
    ]


def _side_by_side(entries: Sequence[Entry]) -> str:
    """That seconds are not those of a machine to itself, where runs were distilled ahead."""
    jobs = max((entry.setup.jobs or 0 for entry in entries), default=0)
    if not jobs:
        return ""
    return (
        f" Up to {jobs} distilled at the same time, beside the drawing: minutes are added up, and "
        "are not those of a machine to itself."
    )
