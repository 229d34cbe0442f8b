"""What is verified is drawn as the base is: by the scheduler of the policy, if it names one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, PNDMScheduler
from serving_examples import base_folder, release
from small_policy import small_plan
from tiny import tiny_pipeline

from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.load import as_backbone, embedded_folder, load_backbone
from safediff.models.schedulers import differing_steps
from safediff.policy.plan import ModelPlan, SchedulerName
from safediff.workflow.subject import drawn_alike, engine_backbone, open_subject
from safediff.workflow.ui import SilentUi
from safediff.workflow.verify import verify


class Measured(Exception):
    """The drawing was about to begin."""


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Backbone]:
    """The base and the first subject of a verification, which then ends."""
    found: list[Backbone] = []

    class Noting:
        def __init__(self, plan: Any, base: Backbone, *others: Any) -> None:
            found.append(base)

        def __enter__(self) -> "Noting":
            return self

        def __exit__(self, *error: object) -> None: ...

        def measure(self, name: str, model: Backbone, hashes: Any) -> None:
            found.append(model)
            raise Measured

    monkeypatch.setattr("safediff.workflow.verify.Verification", Noting)
    return found


def folder_with(path: Path, scheduler: Any, **settings: Any) -> str:
    """The embedded model as somebody else's folder."""
    shutil.copytree(embedded_folder(), path)
    own = DDIMScheduler.from_pretrained(path, subfolder="scheduler")
    scheduler.from_config(own.config, **settings).save_pretrained(path / "scheduler")
    index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", scheduler.__name__]
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("name", "cls"), [("ddim", DDIMScheduler), ("lcm", LCMScheduler)])
def test_the_policys_scheduler_draws_both(
    models: list[Backbone], tmp_path: Path, name: str, cls: Any
) -> None:
    other = folder_with(
        tmp_path / "other", PNDMScheduler, beta_end=0.02, timestep_spacing="trailing"
    )
    plan = small_plan(tmp_path, ("base: embedded", f"base: embedded, scheduler: {name}"))
    with pytest.raises(Measured):
        verify(plan, other, None, tmp_path / "out", SilentUi())
    base, model = models
    assert type(base.scheduler) is type(model.scheduler) is cls
    assert differing_steps(model.scheduler, base.scheduler) is None
    levels = [m.scheduler.config["beta_end"] for m in (base, model)]
    assert levels == [0.012, 0.02]  # what it was trained with stays its own
    assert not torch.equal(base.scheduler.alphas_cumprod, model.scheduler.alphas_cumprod)
    steps = [m.new_scheduler() for m in (base, model)]
    for one in steps:
        one.set_timesteps(4)
    assert torch.equal(steps[0].timesteps, steps[1].timesteps)


@pytest.mark.parametrize(
    ("scheduler", "settings", "said"),
    [
        (PNDMScheduler, {}, r"is PNDMScheduler, that of the base embedded is DDIMScheduler: pict"),
        (
            DDIMScheduler,
            {"timestep_spacing": "trailing", "set_alpha_to_one": True},
            r"is DDIMScheduler \(set_alpha_to_one True, timestep_spacing 'trailing'\), that of the "
            r"base embedded is DDIMScheduler \(set_alpha_to_one False, timestep_spacing 'leading'\)"
            ": pictures",
        ),
    ],
)
def test_two_schedulers_are_refused_where_the_policy_names_none(
    models: list[Backbone], tmp_path: Path, scheduler: Any, settings: dict[str, Any], said: str
) -> None:
    other = folder_with(tmp_path / "other", scheduler, **settings)
    plan, out = small_plan(tmp_path), tmp_path / "out"
    with pytest.raises(UsageError, match=said) as refused:
        verify(plan, other, None, out, SilentUi())
    assert refused.value.next_step == "say in the policy what draws both: model.scheduler: ddim"
    assert models == []
    assert not out.exists()


def test_a_model_that_was_trained_otherwise_is_no_other_way_to_draw(
    models: list[Backbone], tmp_path: Path
) -> None:
    other = folder_with(tmp_path / "other", DDIMScheduler, prediction_type="v_prediction")
    with pytest.raises(Measured):
        verify(small_plan(tmp_path), other, None, tmp_path / "out", SilentUi())
    base, model = models
    assert (base.prediction_type, model.prediction_type) == ("epsilon", "v_prediction")


@pytest.mark.parametrize("name", ["ddim", "lcm"])
def test_a_release_and_its_engine_are_drawn_alike(name: SchedulerName) -> None:
    base = load_backbone(ModelPlan(base=str(base_folder()), scheduler=name))
    subject = open_subject(str(release()))
    model = drawn_alike(subject.models["release"], base, name)
    engine = engine_backbone(model, subject.engine, 1)
    assert engine is not None
    for one in (model, engine):
        assert differing_steps(one.scheduler, base.scheduler) is None


def test_levels_of_flow_matching_are_given_by_the_folder(tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipeline = tiny_pipeline(tmp_path)
    base, model = as_backbone("base", pipeline), as_backbone("model", pipeline)
    object.__setattr__(base, "scheduler", FlowMatchEulerDiscreteScheduler(shift=3.0))
    object.__setattr__(model, "scheduler", FlowMatchEulerDiscreteScheduler(shift=1.0))
    with pytest.raises(UsageError, match=r"\(shift 1.0\), that of the base base is .*3.0") as said:
        drawn_alike(model, base, "model")
    assert said.value.next_step == "give it the scheduler/scheduler_config.json of the base"
