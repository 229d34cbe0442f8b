"""Fetches the prompts of hub data sets, before anything is loaded or drawn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safediff.errors import Inconclusive, UsageError
from safediff.policy.datasets import SUFFIXES, read_dataset
from safediff.policy.negatives import unprovable_specificity
from safediff.policy.plan import ConceptPlan, HubPrompts, Plan, PromptPlan, RetentionCheck
from safediff.policy.rows import PromptRow, RowError, Table
from safediff.policy.templates import fill, shuffled


def with_hub_prompts(plan: Plan) -> Plan:
    """The plan with every prompt in it, and the commits that they came from.

    Chosen among those that the content rules allow, in an order that the sampling's seed fixes.

    Raises:
        UsageError: over all concepts, two of them draw the same prompt.
        Inconclusive: a data set cannot be fetched or used, is too small, or has too many kept
            prompts that name what is erased.
    """
    groups: list[ConceptPlan | RetentionCheck] = [*plan.concepts, *plan.verify.retention]
    if not any(group.hub_prompts for group in groups):
        return plan
    seed = plan.verify.sampling.seed
    notes: list[str] = []
    concepts = tuple(_concept(concept, seed, notes) for concept in plan.concepts)
    retention = tuple(_kept(check, seed, notes) for check in plan.verify.retention)
    verify = replace(plan.verify, retention=retention)
    if plan.verify.erasure.over == "all":
        _require_apart(concepts)
    if reason := unprovable_specificity(concepts, verify):
        raise Inconclusive(f"calibration/specificity: {reason}", "keep more: verify.retention")
    return replace(
        plan,
        concepts=concepts,
        verify=verify,
        notes=tuple(dict.fromkeys((*plan.notes, *notes))),
    )


def _require_apart(concepts: Sequence[ConceptPlan]) -> None:
    """Over all, a picture is one sample; what a data set holds is known only now."""
    owners: dict[str, str] = {}
    for concept in concepts:
        prompts = [item.prompt for item in concept.prompts]
        shared = [owners[prompt] for prompt in prompts if prompt in owners]
        if shared:
            raise UsageError(
                f"verify.erasure.over: concepts '{shared[0]}' and '{concept.name}' draw "
                f"{len(shared)} of the same prompts; over all, a picture can't count twice",
                "say over: each, or give each prompts of its own",
            )
        owners |= dict.fromkeys(prompts, concept.name)


def _concept(concept: ConceptPlan, seed: int, notes: list[str]) -> ConceptPlan:
    if concept.hub_prompts is None:
        return concept
    hub, rows = _chosen(concept.hub_prompts, seed, notes)
    prompts = tuple(_prompt(row, concept.labels) for row in rows)
    return replace(concept, prompts=prompts, hub_prompts=hub)


def _kept(check: RetentionCheck, seed: int, notes: list[str]) -> RetentionCheck:
    if check.hub_prompts is None:
        return check
    hub, rows = _chosen(check.hub_prompts, seed, notes)
    prompts = tuple(
        _prompt(row, tuple(fill(label, {"text": row.text}) for label in check.expect))
        for row in rows
    )
    return replace(check, prompts=prompts, hub_prompts=hub)


def _prompt(row: PromptRow, labels: tuple[str, ...]) -> PromptPlan:
    return PromptPlan(
        prompt=row.text,
        labels=labels,
        seed=row.seed,
        guidance_scale=row.guidance_scale,
        from_table=row.from_table,
    )


def _chosen(hub: HubPrompts, seed: int, notes: list[str]) -> tuple[HubPrompts, list[PromptRow]]:
    folder = fetch(hub.dataset, hub.revision)
    table = _read(folder, hub)
    notes += table.notes(hub.dataset)
    rows = {row.text: row for row in table.rows}
    if len(rows) < hub.num_prompts:
        raise Inconclusive(
            f"{hub.dataset}: {len(rows)} distinct prompts may be drawn, {hub.num_prompts} are "
            "asked for",
            "ask for fewer: num_prompts",
        )
    chosen = shuffled(rows, seed)[: hub.num_prompts]
    commit = folder.name  # the hub's cache names snapshots by commit
    return replace(hub, revision=commit), [rows[text] for text in chosen]


def _read(folder: Path, hub: HubPrompts) -> Table:
    try:
        return read_dataset(folder, hub.split, hub.column, hub.dataset)
    except RowError as error:
        raise Inconclusive(f"{error}", "check split and column of prompts.hub") from error


def fetch(dataset: str, revision: str) -> Path:
    """The folder of a data set at a commit, from the hub's cache or fetched into it; tables only.

    Raises:
        Inconclusive: it is not there and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    patterns = [_either_case(suffix) for suffix in SUFFIXES]
    try:
        path = snapshot_download(
            dataset, repo_type="dataset", revision=revision, allow_patterns=patterns
        )
    except Exception as error:  # offline, unknown, gated: as many classes as causes
        reason = " ".join(str(error).split()).partition(". ")[0][:160]
        raise Inconclusive(
            f"the prompts of {dataset} cannot be fetched: {reason}",
            "go online once, or give a local copy: prompts: {folder: {path: ...}}",
        ) from error
    return Path(path)


def _either_case(suffix: str) -> str:
    """A pattern for names that end so; the hub's client tells TRAIN.CSV from train.csv."""
    return "*." + "".join(f"[{letter}{letter.upper()}]" for letter in suffix.removeprefix("."))
