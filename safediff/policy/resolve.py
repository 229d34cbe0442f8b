"""From a policy to a plan: defaults, files, templates, and everything that can be checked early."""

from dataclasses import replace

from safediff.policy import schema
from safediff.policy.attacks import resolve_attacks
from safediff.policy.base_model import resolve_model
from safediff.policy.concepts import draw, resolve_concepts, resolve_phrasings, resolve_prompts
from safediff.policy.desk import Desk
from safediff.policy.eraser_notes import note_settings
from safediff.policy.few_steps import note_few_steps
from safediff.policy.guard import resolve_guard
from safediff.policy.judges import resolve_judges
from safediff.policy.knobs import check_options, resolve_preset
from safediff.policy.labels import check_label_owners
from safediff.policy.plan import (
    AttackCheck,
    ErasePlan,
    ErasureCheck,
    ExportPlan,
    Plan,
    RetentionCheck,
    SamplingPlan,
    VerifyPlan,
)
from safediff.policy.quality import resolve_quality
from safediff.policy.retention import check_specificity, resolve_keep, resolve_retention
from safediff.policy.source import Source
from safediff.policy.templates import placeholders
from safediff.policy.waivers import resolve_waivers


def resolve(policy: schema.Policy, source: Source) -> Plan:
    """Fill every default and check what can be checked without a model.

    Raises:
        PolicyError: with everything found, in the policy and in what it resolves to.
    """
    desk = Desk(policy=policy, source=source)
    desk.check([policy.name], ("name",))
    model = resolve_model(desk)
    note_few_steps(desk, model)
    default = resolve_prompts(desk, policy.prompts, ("prompts",))
    phrasings = resolve_phrasings(desk, default)
    concepts, erasure = draw(desk, resolve_concepts(desk, default, phrasings))
    retention = resolve_retention(desk, concepts, default)
    check_label_owners(desk, concepts, retention)
    keep = resolve_keep(desk, concepts, phrasings or default.templates)
    preset = resolve_preset(desk)
    if params := check_options(desk, preset):
        note_settings(desk, preset, params, keep)
    guard = resolve_guard(desk, concepts)
    _check_unused_values(desk)
    entry = policy.erase
    verify = _verify(desk, erasure, retention, resolve_attacks(desk, concepts), len(concepts))
    check_specificity(desk, concepts, verify)
    plan = Plan(
        version=policy.version,
        name=policy.name,
        path=source.path,
        source_sha256=source.sha256,
        model=model,
        concepts=concepts,
        erase=ErasePlan(
            method=entry.method,
            preset=preset,
            seed=entry.seed,
            options=entry.options,
            keep=keep,
        ),
        guard=guard,
        verify=verify,
        export=ExportPlan(**policy.export.model_dump()),
        waivers=resolve_waivers(desk, [concept.name for concept in concepts], verify),
        judges=resolve_judges(desk),
        notes=tuple(dict.fromkeys(desk.notes)),
    )
    source.raise_problems()
    return plan


def _verify(
    desk: Desk,
    erasure: ErasureCheck,
    retention: tuple[RetentionCheck, ...],
    attacks: tuple[AttackCheck, ...],
    num_concepts: int,
) -> VerifyPlan:
    entry = desk.policy.verify
    plan = VerifyPlan(
        sampling=SamplingPlan(**entry.sampling.model_dump()),
        erasure=erasure,
        retention=retention,
        quality=resolve_quality(desk),
        collapse_min_ratio=entry.collapse.min_ratio,
        judge_min_sensitivity=entry.judge.min_sensitivity,
        judge_min_specificity=entry.judge.min_specificity,
        max_images=entry.budget.max_images or 0,
        rule=entry.budget.rule,
        attacks=attacks,
    )
    per_model = plan.num_images(num_concepts)
    num_models = 2 + len(desk.policy.export.targets)
    num_attack = plan.num_attack_images(num_models - 1)
    needed = per_model * num_models + num_attack
    if entry.budget.max_images is None:
        return replace(plan, max_images=needed)
    if needed > plan.max_images:
        message = (
            f"the checks draw {needed} images ({per_model} from each of {num_models} models: base, "
            f"safe and engines{f'; {num_attack} for attacks' if num_attack else ''}); ask for "
            "fewer prompts or allow more images"
        )
        desk.source.refuse(("verify", "budget", "max_images"), message)
    return plan


def _check_unused_values(desk: Desk) -> None:
    """Values that no template of the policy names: most likely a slip of the pen."""
    used = {name for template in _all_templates(desk.policy) for name in placeholders(template)}
    for loc in list(desk.source.marks):
        if len(loc) > 1 and loc[-2] == "values" and loc[-1] not in used:
            desk.source.refuse(loc, f"no template names '{{{loc[-1]}}}'")


def _all_templates(policy: schema.Policy) -> list[str]:
    prompts = [policy.prompts, *(concept.prompts for concept in policy.concepts)]
    lists = [p.templates for p in prompts if isinstance(p, schema.Prompts)]
    lists += [policy.erase.phrasings, *(group.templates for group in policy.verify.retention)]
    if isinstance(policy.keep, schema.Keep):
        lists.append(policy.keep.templates)
    return [template for templates in lists if templates for template in templates]
