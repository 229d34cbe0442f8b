"""What a plan will cost in UNet passes (one sample through the UNet once), without loading it."""

from dataclasses import dataclass

from safediff.attack.params import alignment_passes, effort, find_attack
from safediff.erase.mean_steps import mean_steps
from safediff.erase.methods import resolve
from safediff.erase.params import DistilParams, asks_concept
from safediff.guard.params import planned_branches
from safediff.policy.plan import AttackCheck, ErasePlan, Plan, num_branches

PASSES_PER_S = 35.0
"""UNet sample passes a second of Stable Diffusion 1.x at 512 x 512 on one RTX 4070, for estimates:
81,000 passes of a 1500-step trainer of cross-attention were reported to take 0.65 hours there."""


SD1_PASS_FLOPS = 8.03e11
"""FLOPs of one such pass."""


def gpu_hours(passes: int, pass_flops: float = SD1_PASS_FLOPS) -> float:
    """Hours on one RTX 4070, if a pass takes as long as its FLOPs; other cards differ."""
    return passes * pass_flops / SD1_PASS_FLOPS / PASSES_PER_S / 3600


@dataclass(frozen=True)
class Cost:
    """Numbers of passes and pictures; a forward and backward counts as three passes."""

    erase_passes: int
    verify_passes: int
    num_images: int


def estimate_cost(plan: Plan, distilled: bool = False) -> Cost:
    """Expected passes of erasing, and of drawing every picture of every check.

    Under the sequential rule checks may stop before that. ``distilled``: guidance is an input of
    the model, which then takes one pass a picture and step.
    """
    branches = num_branches(plan.verify.sampling.guidance_scale, distilled)
    per_step = branches * plan.num_images + _guard_passes(plan)
    verify_passes = per_step * plan.verify.sampling.num_steps
    if plan.verify.attacks:
        num_texts = sum(len(concept.erase) for concept in plan.concepts)
        verify_passes += alignment_passes(num_texts) * (1 + len(plan.export.targets))
    for check in plan.verify.attacks:
        profile = find_attack(check.name)
        num_engines = 0 if profile.needs_gradients else len(plan.export.targets)
        verify_passes += search_passes(check) * (1 + num_engines + int(profile.changes_base))
    return Cost(
        erase_passes=erase_passes(plan.erase, distilled),
        verify_passes=verify_passes,
        num_images=plan.num_images,
    )


def erase_passes(erase: ErasePlan, distilled: bool = False) -> int:
    """Expected passes of a distillation as planned; 0 for other erasers."""
    params = resolve(erase.method, erase.preset, erase.options)
    if not isinstance(params, DistilParams):
        return 0
    return distil_passes(params, distilled, has_keep=bool(erase.keep))


def student_passes(plan: Plan, distilled: bool = False) -> int:
    """Passes of drawing the student, which erasing measures beside its moving average; 0: none.

    It is drawn behind the policy's guard, and not attacked.
    """
    params = resolve(plan.erase.method, plan.erase.preset, plan.erase.options)
    if not isinstance(params, DistilParams) or not params.ema_decay:
        return 0
    plain = num_branches(plan.verify.sampling.guidance_scale, distilled)
    branches = planned_branches(plan.guard, plain)
    per_model = plan.verify.num_images(len(plan.concepts))
    return branches * per_model * plan.verify.sampling.num_steps


def search_passes(check: AttackCheck) -> int:
    """Searching and training of one attack on one model, pictures not counted."""
    work = effort(check.name, check.settings, len({a.concept for a in check.attempts}))
    return len(check.attempts) * work.search_passes + work.early_passes


def _guard_passes(plan: Plan) -> int:
    """What a guard adds to one step of every picture; the base is drawn without it."""
    if plan.guard is None:
        return 0
    branches = planned_branches(plan.guard)
    per_model = plan.verify.num_images(len(plan.concepts))
    per_model += sum(attack.num_safe_images for attack in plan.verify.attacks)
    return (branches - 2) * per_model * (1 + len(plan.export.targets))


def distil_passes(params: DistilParams, distilled: bool = False, *, has_keep: bool = True) -> int:
    """Expected passes of a distillation: rollouts (both guidance branches) and losses.

    Without kept texts (``has_keep``) their share of each batch is erased, too.
    """
    rollouts = -(-params.num_steps // params.reuse)
    erase_share = 1 - params.keep_share * has_keep
    per_loss = 4 + erase_share * (4 * bool(params.anchor_weight) + asks_concept(params))
    branches = num_branches(params.guidance_scale, distilled)
    rolling = rollouts * branches * mean_steps(params) * params.batch_size
    return round(rolling + params.num_steps * params.batch_size * per_loss)
