"""Erase, verify, sample, export, release and serve with the other families, on random pipelines.

SDXL comes as a single-file checkpoint, the others as diffusers folders.

A random pipeline draws nothing that a judge knows, so no verdict here is a pass: what is looked at
is that every stage does its work and that the numbers of one agree with those of another.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from release_examples import make_evidence
from serving_examples import PIPELINES
from test_models_load import configs_of
from tiny import Form, tiny_engine_of, tiny_vae

from safediff.export.runtime import ExportedUNet
from safediff.export.single_file import write_single_file
from safediff.export.to_onnx import swap_weights
from safediff.gate.verdict import Verdict
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone, Condition
from safediff.models.load import as_backbone, load_backbone
from safediff.models.patch import load_patch, state_sha256, unet_sha256
from safediff.policy.load import load_plan
from safediff.policy.plan import ModelPlan, Plan
from safediff.release.layout import write_release
from safediff.sample.sampler import Draw, Sampling, initial_latents, sample
from safediff.serve.pipeline import Order, SafePipeline, Settings
from safediff.workflow.engine_report import measure_engine
from safediff.workflow.erase import Outcome, erase
from safediff.workflow.export import metadata
from safediff.workflow.export_source import open_source
from safediff.workflow.generate import generate_grid
from safediff.workflow.run_folder import open_run
from safediff.workflow.safe_model import patched
from safediff.workflow.training import train
from safediff.workflow.ui import SilentUi

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

POLICY = """\
version: 1
name: family
model: {model}
prompts:
  templates: ["{{text}}, {{style}} style", "{{style}} style {{text}}"]
  values: {{style: [noto, fluent]}}
concepts:
  - {{name: axe, erase: [axe]}}
keep: [hammer, owl]
erase: {erase}
{guard}
verify:
  sampling: {{num_steps: 3, guidance_scale: 5.0, batch_size: 4}}
  erasure: {{max_rate: 0.9, num_prompts: 4, min_base_rate: 0.1}}
  retention: [{{name: ordinary, min_ratio: 0.15, num_prompts: 4, texts: [crown, key, heart, star]}}]
  collapse: {{min_ratio: 0.15}}
  quality: {{null_drift: 0.5}}
  judge: {{min_sensitivity: 0.5, min_specificity: 0.4}}
  attacks:
{attacks}
export: {{targets: []}}
"""
SMALL = "num_steps: 3, num_inference_steps: 4, batch_size: 2, learning_rate: 0.5"
ERASERS = {
    "sdd": f"{{method: sdd, options: {{{SMALL}, reuse: 1, anchor_weight: 0.5}}}}",
    "esd-x": f"{{method: esd-x, options: {{{SMALL}}}}}",
    "few-steps": (
        "{method: sdd, options: {num_steps: 3, num_inference_steps: 4, batch_size: 2, reuse: 1, "
        "learning_rate: 0.5, guidance_scale: 0.0, rollout_scheduler: model, loss_timestep: step}}"
    ),
    "uce": "{method: uce}",
    "rece": "{method: rece}",
    "speed": "{method: speed}",
}
ATTACKS = """\
    - {name: ring-a-bell-embedding, num_prompts: 2}
    - {name: closed-form, num_prompts: 2}
    - {name: completion, num_prompts: 2}
    - {name: inpainting, num_prompts: 2}
    - {name: fine-tuning, num_prompts: 1, num_iterations: 1, num_pictures: 2}
    - {name: unlearn-diff-atk, num_prompts: 1, num_iterations: 1, num_points: 2}
    - {name: textual-inversion, num_prompts: 1, num_iterations: 1, num_pictures: 2}
    - {name: ring-a-bell, num_prompts: 1, population: 4, num_rounds: 1, num_tokens: 2}
"""


NEED_TOKENS = ("unlearn-diff-atk", "textual-inversion", "ring-a-bell")


@dataclass(frozen=True)
class Family:
    name: Form
    model: ModelPlan

    @property
    def xl(self) -> bool:
        return self.name == "sdxl"

    def write(self, folder: Path, method: str = "sdd", guard: str = "") -> Path:
        said = {"base": self.model.base, "config": self.model.config}
        model = json.dumps({key: value for key, value in said.items() if value})
        text = POLICY.format(model=model, erase=ERASERS[method], guard=guard, attacks=ATTACKS)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "family.yaml").write_text(text, encoding="utf-8")
        return folder / "family.yaml"

    def plan(self, folder: Path, method: str = "sdd", guard: str = "") -> Plan:
        return load_plan(self.write(folder, method, guard))


@pytest.fixture(scope="module", params=PIPELINES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = PIPELINES[request.param](folder / "words")
    # the judge sees pictures of 64 x 64
    pipeline.register_modules(vae=tiny_vae(num_halvings=3))
    if request.param != "sdxl":
        pipeline.save_pretrained(folder / "base")
        return Family(request.param, ModelPlan(base=str(folder / "base")))
    file = write_single_file(folder / "base.safetensors", as_backbone("sdxl", pipeline))
    config = str(configs_of(pipeline, folder / "config"))
    return Family(request.param, ModelPlan(base=str(file), config=config))


@pytest.fixture(scope="module")
def outcome(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("run")
    plan = family.plan(folder)
    return erase(plan, open_run(plan, folder / "run", resume=False), SilentUi())


@pytest.fixture(scope="module")
def engine(family: Family, outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's UNet in the graph that other tests use too, which saves tracing it."""
    folder = tmp_path_factory.mktemp("engine") / "engine"
    source = open_source(outcome.run.path)
    state = source.model.denoiser.state_dict()
    swap_weights(tiny_engine_of(family.name), folder, state, metadata=metadata(source))
    report = measure_engine(source, folder)
    assert report.passed
    assert report.parity.worst_max_abs < 1e-4
    return folder


def test_erased_and_verified(family: Family, outcome: Outcome) -> None:
    base = load_backbone(family.model)
    patch = load_patch(outcome.run.patch)
    assert patch.base_sha256 == unet_sha256(base.denoiser)
    state = base.denoiser.state_dict()
    changed = {name for name, w in patch.tensors.items() if not torch.equal(w, state[name])}
    assert changed
    assert changed <= {name for name in state if ".attn2." in name}
    teacher, student = outcome.reports
    found = {result.id: result for result in teacher.results}
    assert found["erasure/all"].verdict is Verdict.INCONCLUSIVE  # no axe was there that could go
    assert found["quality/null_drift"].verdict is Verdict.PASS
    drift = found["quality/null_drift"].estimate
    assert drift is not None
    # keys and values of the zeros that stand for no text are zero, whatever their weights
    assert drift == 0 if family.xl else 0 < drift < 0.5
    assert student.results


def test_attacks_are_tried_or_say_why_not(family: Family, outcome: Outcome) -> None:
    kind = "robustness/"
    rows = {r.id.removeprefix(kind): r for r in outcome.reports[0].results if r.id.startswith(kind)}
    assert set(re.findall(r"name: ([\w-]+)", ATTACKS)) <= rows.keys()
    refused = {
        name: row.message
        for name, row in rows.items()
        if row.verdict is Verdict.INCONCLUSIVE
        if not row.num_samples
    }
    assert set(refused) == ({*NEED_TOKENS} if family.xl else set())
    assert all("one text encoder" in message for message in refused.values())


def test_engine_release_and_server_draw_the_same(
    family: Family, outcome: Outcome, engine: Path, tmp_path: Path
) -> None:
    source = open_source(outcome.run.path)
    sampling = Sampling(num_steps=3, guidance_scale=4.0, seed=5)
    draws = [Draw("an axe"), Draw("owl")]

    def pictures(model: Backbone) -> torch.Tensor:
        return torch.stack([p.image for b in sample(model, draws, sampling) for p in b]).int()

    expected = pictures(source.model)
    assert source.base is not None
    assert (pictures(source.base) - expected).abs().max() > 2
    compiled = source.model.with_denoiser(ExportedUNet(engine))
    assert (pictures(compiled) - expected).abs().max() <= 1

    release = tmp_path / "release"
    made_up = make_evidence()
    evidence = make_evidence(
        policy=made_up.policy | {"resolved": source.policy},
        base_model=made_up.base_model | {"sha256": {"unet": source.base_sha256}},
    )
    write_release(release, source.model, evidence, engine=engine)
    loaded = DiffusionPipeline.from_pretrained(release)
    assert type(loaded).__name__ == source.model.pipeline_name
    loaded.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
    latents = initial_latents(draws, source.model.latent_shape, sampling.seed)
    drawn = loaded([d.prompt for d in draws], latents=latents, **options).images
    assert np.abs(drawn.transpose(0, 3, 1, 2) * 255 - expected.numpy()).max() <= 1

    server = SafePipeline.from_release(release, accept_unverified="made-up evidence")
    orders = [Order(d.prompt, sampling.seed, d.index) for d in draws]
    served = server.draw(orders, Settings(num_steps=3, guidance_scale=4.0))
    assert (served.int() - expected).abs().max() <= 1
    generate_grid(str(release), None, ["owl"], 1, sampling, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("method", ["esd-x", "uce", "rece", "speed"])
def test_every_eraser_changes_what_it_should(family: Family, method: str, tmp_path: Path) -> None:
    plan = family.plan(tmp_path, method)
    base = load_backbone(plan.model)
    run = open_run(plan, tmp_path / "run", resume=False)
    patch = train(plan, base, run, SilentUi()).teacher
    safe, state = patched(base, patch), base.denoiser.state_dict()
    assert any(not torch.equal(w, state[name]) for name, w in patch.tensors.items())
    z = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(501)

    def moved(c: Condition) -> float:
        return float((safe.denoise(z, t, c) - base.denoise(z, t, c)).norm())

    erased = moved(base.encode(["axe"]))
    assert erased > 1e-4
    if method != "esd-x" and family.xl:  # closed forms edit keys and values, here of zeros
        assert moved(base.null()) < 1e-5
    if method == "speed":  # which keeps the empty text in its null space
        assert moved(base.encode([""])) < 0.1 * erased


@pytest.mark.parametrize("guard", ["neg", "sld-max", "sega-max"])
def test_guards_steer(family: Family, guard: str) -> None:
    base = load_backbone(family.model)
    sampling = Sampling(num_steps=3, guidance_scale=4.0, seed=5)
    plain, steered = (
        next(sample(base, [Draw("an axe")], sampling, guard=g))[0].image.int()
        for g in (None, make_guard(guard, ["axe"]))
    )
    assert (plain - steered).abs().max() > 2


def test_models_of_few_steps_are_erased_and_verified(family: Family, tmp_path: Path) -> None:
    """Without guidance, with a scheduler that adds noise; rollouts are the model's own."""
    path = family.write(tmp_path, "few-steps")
    text = path.read_text(encoding="utf-8")
    for old, new in (
        ("model: {", 'model: {"scheduler": "lcm", '),
        ("num_steps: 3, guidance_scale: 5.0", "num_steps: 2, guidance_scale: 0.0"),
        (ATTACKS, "    - {name: completion, num_prompts: 2}\n"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    plan = load_plan(path)
    found = erase(plan, open_run(plan, tmp_path / "run", resume=False), SilentUi())
    patch = load_patch(found.run.patch)
    base = load_backbone(plan.model).denoiser.state_dict()
    assert any(not torch.equal(w, base[name]) for name, w in patch.tensors.items())
    again = erase(plan, open_run(plan, tmp_path / "again", resume=False), SilentUi())
    assert state_sha256(load_patch(again.run.patch).tensors) == state_sha256(patch.tensors)
    # the noise of the steps is the pictures' own
    assert [r.results for r in again.reports] == [r.results for r in found.reports]
