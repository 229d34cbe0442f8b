"""What a MODEL argument stands for: embedded, a run, a combination, a release, a model's name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safediff.errors import Inconclusive, UsageError
from safediff.export.providers import drawing_provider
from safediff.export.runtime import open_denoiser
from safediff.guard.base import Guard
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.patch import load_patch
from safediff.models.schedulers import differing_steps, name_of, steps_like
from safediff.policy.base_model import EMBEDDED
from safediff.policy.plan import Dtype, ModelPlan, SchedulerName
from safediff.release.certificate import CERTIFICATE_NAME
from safediff.release.certified_files import require_certified_files
from safediff.release.checksums import verify_checksums
from safediff.release.weights import denoiser_folder
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.safe_model import patched, share_parts


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to look at."""

    models: dict[str, Backbone]
    """By name; the base first where it is known."""
    engine: Path | None = None
    """Engine folder that belongs to it."""
    guard: Guard | None = None
    """What its policy draws every model but the base with."""
    base_plan: ModelPlan | None = None
    """What ``models["base"]`` was loaded from; None where the base is not among them."""


COMBINATION = "combination.json"
"""What a folder of ``safediff combine`` holds."""


def open_subject(
    model: str,
    revision: str | None = None,
    dtype: Dtype = "float32",
    scheduler: SchedulerName = "model",
) -> Subject:
    """Load what ``model`` names; of a release checksums and certified files are checked first.

    ``dtype`` and ``scheduler`` are for a model's name: runs and releases say what they were
    verified with.

    Raises:
        UsageError: nothing of that name, or a path where a revision is asked for; a release does
            not match its checksums, or holds other weights than its certificate speaks of.
        Inconclusive: it cannot be read.
    """
    path = Path(model)
    if revision is not None and path.exists():
        raise UsageError(
            f"MODEL {model!r}: is a path here ({path.resolve()}); only hub ids have a --revision",
            "run it from another folder, or leave --revision out to mean that path",
        )
    if (path / "plan.json").exists():
        return _open_run(RunFolder(path))
    if (path / COMBINATION).exists():
        return _open_combination(RunFolder(path))
    if (path / CERTIFICATE_NAME).exists():
        return _open_release(path)
    if model != EMBEDDED and not path.exists() and revision is None:
        raise UsageError(
            f"MODEL {model!r}: no such folder or file, and no --revision of a hub id is given",
            "name embedded, a run, a release, a diffusers folder, or a hub id with --revision",
        )
    named = ModelPlan(base=model, revision=revision, dtype=dtype, scheduler=scheduler)
    return Subject(models={model: load_backbone(named)})


def base_beside(subject: Subject, plan: ModelPlan) -> Backbone:
    """The plan's model, to compare the subject with; what is equal in both is held once.

    Raises:
        UsageError, Inconclusive: see ``load_backbone``.
    """
    if subject.base_plan == plan:
        return subject.models["base"]
    base = load_backbone(plan)
    *_, model = subject.models.values()
    share_parts(model, base)
    return base


def drawn_alike(model: Backbone, base: Backbone, scheduler: SchedulerName) -> Backbone:
    """The model, drawn as ``base`` is, whose scheduler is that of a policy, by the given name.

    Its noise schedule and what it predicts stay its own.

    Raises:
        UsageError: the policy names no scheduler and the two come with different ones, or the model
            cannot be drawn with the named one.
    """
    if scheduler != "model":
        own = model.with_scheduler(scheduler).scheduler
        return replace(model, scheduler=steps_like(base.scheduler, own))
    differing = differing_steps(model.scheduler, base.scheduler)
    if differing is None:
        return model
    raise UsageError(
        f"{model.name}: its scheduler is {differing[0]}, that of the base {base.name} is "
        f"{differing[1]}: pictures that are not drawn alike cannot be compared",
        _one_for_both(model, base),
    )


def _one_for_both(model: Backbone, base: Backbone) -> str:
    """What to do about two schedulers; a policy names one for both that have levels of noise."""
    schedulers = [model.scheduler, base.scheduler]
    if not all(hasattr(own, "alphas_cumprod") for own in schedulers):
        return "give it the scheduler/scheduler_config.json of the base"
    names = [name for own in schedulers if (name := name_of(own))]
    return f"say in the policy what draws both: model.scheduler: {(names or ['ddim'])[0]}"


def verified_sampling(model: str) -> dict[str, Any]:
    """Steps and guidance that a run or release was verified with; nothing is known of others.

    Raises:
        Inconclusive: its plan cannot be read.
    """
    path = Path(model)
    if (path / "plan.json").exists():
        plan = _read(path / "plan.json", "plan")
    elif (path / CERTIFICATE_NAME).exists():
        plan = _read(path / CERTIFICATE_NAME, "policy")["resolved"]
    else:
        return {}
    found: dict[str, Any] = plan.get("verify", {}).get("sampling", {})
    return found


def _open_run(run: RunFolder) -> Subject:
    if not run.patch.exists():
        raise UsageError(f"{run.path}: this run has no patch yet", "safediff erase POLICY --resume")
    stored = _read(run.path / "plan.json", "plan")
    base_plan = ModelPlan(**stored["model"])
    base = load_backbone(base_plan)
    return Subject(
        models={"base": base, "erased": patched(base, load_patch(run.patch))},
        engine=run.engine if run.engine.exists() else None,
        guard=_guard(stored),
        base_plan=base_plan,
    )


def _open_combination(run: RunFolder) -> Subject:
    stored = _read(run.path / COMBINATION)
    if stored.get("schema_version") != 2:
        raise Inconclusive(
            f"{run.path}: its {COMBINATION} is of an earlier version, which left out scheduler, "
            "LoRA and guard",
            "run the same safediff combine again; what is done already is kept",
        )
    base_plan = ModelPlan(**stored["model"])
    base = load_backbone(base_plan)
    return Subject(
        models={"base": base, "combined": patched(base, load_patch(run.patch))},
        engine=run.engine if run.engine.exists() else None,
        guard=_guard(stored),
        base_plan=base_plan,
    )


def _open_release(path: Path) -> Subject:
    verify_checksums(path)
    require_certified_files(path)
    engine, stored = denoiser_folder(path), _read(path / CERTIFICATE_NAME, "policy")["resolved"]
    released = ModelPlan(base=str(path), dtype=stored["model"].get("dtype", "float32"))
    return Subject(
        models={"release": load_backbone(released)},
        engine=engine if (engine / "model.onnx").exists() else None,
        guard=_guard(stored),
    )


def _read(path: Path, part: str | None = None) -> dict[str, Any]:
    """A plan, or what holds one: a whole file, or a part of it."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Any] = whole if part is None else whole[part]
    except (OSError, ValueError, KeyError) as error:
        raise Inconclusive(f"{path}: not a readable plan ({error})") from error
    return found


def _guard(plan: Mapping[str, Any]) -> Guard | None:
    entry = plan.get("guard")
    return make_guard(entry["name"], entry["texts"]) if entry else None


def engine_backbone(model: Backbone, engine: Path | None, num_threads: int) -> Backbone | None:
    """The model around its engine, opened where it draws fastest, or None if it has none."""
    if engine is None:
        return None
    opened = open_denoiser(engine, provider=drawing_provider(), num_threads=num_threads)
    return model.with_denoiser(opened)
