"""What a command cannot do is refused before anything is trained or drawn, in every workflow alike.

``prove_plan`` needs the policy alone, ``prove_base`` the loaded base, too.
"""

from collections.abc import Mapping, Sequence

import torch

from safediff.export.providers import drawing_provider
from safediff.guard.load import planned_guard
from safediff.judge.base import Judge
from safediff.judge.load import prove_judges, prove_sight
from safediff.models.backbone import Backbone
from safediff.policy.base_model import EMBEDDED
from safediff.policy.plan import Plan, QualityCheck
from safediff.verify.accuracy import prove_limits
from safediff.verify.long_prompts import cut_prompts
from safediff.verify.on_judge import prove_judge, taken_on_judge
from safediff.verify.quality import prove_sources
from safediff.verify.scales import require_levels, require_scales, require_steps
from safediff.workflow.engines import require_exportable
from safediff.workflow.ui import Ui


def prove_plan(plan: Plan, *, limits: bool = True) -> dict[str, Judge]:
    """The plan's judges by name; they, its limits and its metrics' sources can be had.

    ``limits``: refuse those that no result could meet, too.

    Raises:
        UsageError: there is no judge of that name.
        Inconclusive: a judge, a package or weights are missing, or how well a judge sees is not
            known; a judge misses too much for the limits, or prompts are too few.
    """
    judges = prove_judges(plan)
    if limits:
        prove_limits(plan, judges)
    prove_sources(plan)
    return judges


def prove_base(
    plan: Plan,
    base: Backbone,
    judges: Mapping[str, Judge],
    ui: Ui,
    *,
    exports: bool,
    quality: Sequence[QualityCheck] | None = None,
) -> None:
    """The base can be drawn as the plan asks, judged, and exported where an engine will be made.

    ``quality``: what the judge must be able to give, where that is not all that the plan measures.

    Raises:
        UsageError: the model cannot be exported, or not be sampled in so many steps, at the
            policy's scales or with its guard; its steps do not say the levels of noise that drift
            and attacks need; a prompt of the policy is longer than a text encoder reads; a judge
            reads pictures of another size.
        Inconclusive: the engine's pictures can't be drawn here, or a judge cannot read pictures
            or give what a metric is taken on.
    """
    _say_cut(plan, base, ui)
    if exports and "onnx" in plan.export.targets:
        require_exportable(base)
        drawing_provider()
    require_steps(plan, base)
    require_scales(plan, base, planned_guard(plan))
    require_levels(plan, base)
    prove_sight(judges, base.picture_size)
    measured = plan.verify.quality if quality is None else quality
    if on_judge := [check for check in measured if taken_on_judge(check)]:
        prove_judge(judges[plan.concepts[0].judge], on_judge, base.picture_size)


def say_device(base: Backbone, ui: Ui) -> None:
    """Note a model that was loaded onto the CPU, but for the embedded one, which is made for it."""
    if base.name != EMBEDDED and next(base.vae.parameters()).device.type == "cpu":
        ui.say(
            f"note: torch {torch.__version__} sees no GPU here, so the model runs on the CPU, "
            "which may take days: safediff doctor shows what there is"
        )


def _say_cut(plan: Plan, base: Backbone, ui: Ui) -> None:
    """Note how many prompts of tables are longer than a text encoder reads.

    Raises:
        UsageError: a prompt of the policy is.
    """
    if count := len(cut_prompts(plan, base)):
        ui.say(
            f"note: {count} prompts of tables are longer than the text encoder reads: "
            "they are asked up to the end of its window, as published"
        )
