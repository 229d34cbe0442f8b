"""Whole runs of a float16 model on a device that is not there; tensors that were left behind."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from erase_examples import CONCEPTS, KEEP, SMALL, frozen_backbone, small_trainer
from fake_gpu import GPU, FakeGpu, OnGpu, Waits, loading_on_gpu, on_gpu
from small_policy import FEWER, small_plan
from tiny import NUM_TOKENS, TEXT_DIM, tiny_engine, tiny_pipeline, tiny_v_pipeline, tiny_xl_pipeline
from torch import nn
from transformer_examples import FAMILIES, example

import safediff.workflow.erase
from safediff.attack.params import ATTACKS
from safediff.erase.closed_form.solve import solve
from safediff.erase.methods import resolve
from safediff.erase.rollout import rollout
from safediff.erase.trainer import StepInfo
from safediff.export.exported_unet import ExportedUNet
from safediff.export.providers import Execution
from safediff.export.session import Session
from safediff.gate.verdict import CheckResult, Verdict
from safediff.guard.load import make_guard
from safediff.models.backbone import Condition
from safediff.models.load import as_backbone
from safediff.sample.sampler import Draw, Sampling, denoise_all
from safediff.verify.drift import null_drift
from safediff.workflow.erase import erase
from safediff.workflow.run_folder import open_run
from safediff.workflow.ui import SilentUi

UNETS: Mapping[str, Callable[[Path], Any]] = {
    "sd": tiny_pipeline,
    "sd-v": tiny_v_pipeline,
    "sdxl": tiny_xl_pipeline,
}
LEAST = {
    "paraphrase": "",
    "ring-a-bell-embedding": "",
    "closed-form": "",
    "completion": "",
    "inpainting": "",
    "unlearn-diff-atk": "num_iterations: 2, num_tokens: 2, num_tries: 1, num_points: 2",
    "ring-a-bell": "num_tokens: 2",
    "noise": "num_tries: 2",
    "classifier-guidance": "num_iterations: 2, num_tries: 1, num_pictures: 2",
    "textual-inversion": "num_iterations: 2, num_pictures: 2",
    "fine-tuning": "num_iterations: 2, num_pictures: 2",
}
"""Attacks at the least effort that they take."""


def test_the_device_minds_who_joins_its_tensors() -> None:
    here = torch.ones(2)
    with FakeGpu():
        there = here.to("cuda")
        assert (there.device, here.device) == (GPU, torch.device("cpu"))
        assert (there + 1).device == GPU
        assert (there + torch.tensor(2.0)).tolist() == [3.0, 3.0]
        assert torch.randn(2, device="cuda").device == GPU
        assert there.cpu().numpy().tolist() == [1.0, 1.0]
        for mistake in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: torch.stack([here, there]),
            lambda: torch.where(there > 0, there, here),
            lambda: torch.nn.functional.linear(here, there.expand(3, 2)),
            lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match="Expected"):
                mistake()
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()
        half = there.to(torch.float16)
        assert (half.device, half.dtype) == (GPU, torch.float16)
        assert here.to(half).device == GPU


@torch.no_grad()
@pytest.mark.parametrize("family", UNETS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_unet_family_draws_there_what_it_draws_here(tmp_path: Path, family: str) -> None:
    draws = [Draw("an axe"), Draw("owl")]

    def drawn() -> torch.Tensor:
        null, c = backbone.encode([""]).repeat(2), backbone.encode([d.prompt for d in draws])
        sampling = Sampling(num_steps=3, guidance_scale=3.0)
        return backbone.decode(denoise_all(backbone, draws, null, c, sampling))[0]

    backbone = as_backbone("tiny", UNETS[family](tmp_path))
    expected = drawn()
    backbone = on_gpu(backbone)
    with FakeGpu():
        found = drawn()
        assert isinstance(found, OnGpu)
        assert torch.equal(found.cpu(), expected)
        with pytest.raises(RuntimeError, match="two devices"):
            backbone.denoise(torch.zeros(2, 4, 8, 8), torch.tensor(5), backbone.encode(["", "owl"]))


def test_waits_are_counted() -> None:
    here, table = torch.ones(2), torch.arange(4.0)
    with Waits() as waits:
        there = here.to("cuda")
        assert waits.count == 1
        assert ((there + 1) * table[3]).device == GPU
        assert there.to(torch.float16).device == GPU
        assert waits.count == 1
        for wait in (
            lambda: there.cpu(),
            lambda: float(there[0]),
            lambda: there.tolist(),
            lambda: bool((there > 0).all()),
            lambda: table[there.long()],
            lambda: table.to(there),
        ):
            before = waits.count
            wait()
            assert waits.count == before + 1


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", ["sd", "sd-v", "sdxl", *FAMILIES])
def test_no_step_waits_for_the_one_before(tmp_path: Path, family: str) -> None:
    """Longer trajectories cross between host and device as often as short ones."""
    if family in UNETS:
        backbone = as_backbone("tiny", UNETS[family](tmp_path))
    else:
        backbone = example(family, tmp_path).backbone
    backbone = on_gpu(backbone)
    draws, scale = [Draw("an axe")], backbone.default_guidance

    def waits(num_steps: int) -> list[int]:
        found = []
        for work in (drawn, rolled):
            with Waits() as counter:
                c_0, c = backbone.null(), backbone.encode(["an axe"])
                assert work(num_steps, c_0, c).device == GPU
            found.append(counter.count)
        return found

    def drawn(num_steps: int, c_0: Condition, c: Condition) -> torch.Tensor:
        sampling = Sampling(num_steps=num_steps, guidance_scale=scale)
        return denoise_all(backbone, draws, c_0, c, sampling)

    def rolled(num_steps: int, c_0: Condition, c: Condition) -> torch.Tensor:
        params = replace(SMALL, guidance_scale=scale)
        (state,) = rollout(backbone, c_0, c, [num_steps], params, torch.Generator())
        return state.z

    assert waits(6) == waits(3)


class EngineThere:
    """A session on the GPU whose answer are the latents; keeps the last timestep."""

    device, provider, cuda_graph = GPU, "CUDAExecutionProvider", False

    def __init__(self) -> None:
        self.inputs = Session(tiny_engine() / "model.onnx", Execution(num_threads=1)).inputs

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def run(self, feeds: Mapping[str, torch.Tensor], shapes: Any) -> dict[str, torch.Tensor]:
        self.timestep = feeds["timestep"]
        return dict.fromkeys(shapes, feeds["sample"])


def test_no_call_of_an_engine_waits_for_its_timestep() -> None:
    """diffusers' schedulers hold them on the GPU."""
    session = EngineThere()
    unet = ExportedUNet(tiny_engine(), session=session)  # type: ignore[arg-type]
    with Waits() as waits:
        z = torch.zeros(2, 4, 8, 8, device="cuda")
        c = torch.zeros(2, NUM_TOKENS, TEXT_DIM, device="cuda")
        timesteps = torch.tensor([501, 21], device="cuda")
        before = waits.count
        for t in timesteps:
            (eps,) = unet(z, t, c, return_dict=False)
            assert (eps.device, session.timestep.device) == (GPU, GPU)
        assert waits.count == before
        assert session.timestep.shape == ()
        assert session.timestep.tolist() == 21


def stop_at_2(info: StepInfo) -> None:
    if info.step == 2:
        raise KeyboardInterrupt


AVERAGED: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "null space": {"trainable": "kv", "null_space": 0.1},
    "adapter": {"lora_rank": 2},
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_the_average_waits_in_main_memory(tmp_path: Path, kind: str) -> None:
    """It is the same average, also when the run was stopped on the way."""
    backbone = on_gpu(frozen_backbone(tmp_path))
    params = replace(SMALL, ema_decay=0.5, **AVERAGED[kind])
    away = replace(params, offload_average=True)
    checkpoint = tmp_path / "checkpoint"
    with FakeGpu():
        expected = small_trainer(backbone, params).run(lambda info: None)
        stopped = small_trainer(backbone, away)
        assert {value.device for value in stopped.student.values} == {GPU}
        assert {mean.device for mean in stopped.teacher} == {torch.device("cpu")}
        with pytest.raises(KeyboardInterrupt):
            stopped.run(stop_at_2, checkpoint)
        resumed = small_trainer(backbone, away)
        resumed.restore(checkpoint)
        found = resumed.run(lambda info: None)
        assert {mean.device for mean in resumed.teacher} == {torch.device("cpu")}
        for name, tensor in expected.teacher.tensors.items():
            assert found.teacher.tensors[name].device == GPU
            assert torch.equal(found.teacher.tensors[name], tensor)
    assert (found.adapter is None) == (kind != "adapter")


def test_kept_texts_wait_in_main_memory(tmp_path: Path) -> None:
    """What is drawn of them is the same, and lies where the network is."""
    params = replace(SMALL, num_steps=1, batch_size=4, keep_share=0.5, target="frozen", eta=0.3)
    params = replace(params, trainable="kv", null_space=0.1, warm_start=0.5)
    params = replace(params, keep_sampling="influence")
    backbone = frozen_backbone(tmp_path)
    expected = small_trainer(backbone, params)
    backbone = on_gpu(backbone)
    with FakeGpu():
        trainer = small_trainer(backbone, params)
        texts = trainer.texts
        assert texts.keep is not None
        assert texts.keep.hidden.device == torch.device("cpu")
        assert texts.kept_tokens().hidden.device == GPU
        batches = [
            bank.draw(0, params, torch.Generator().manual_seed(0))
            for bank in (expected.texts, texts)
        ]
        for role in ("c_p", "c_s"):
            here, there = (getattr(batch, role).hidden for batch in batches)
            assert there.device == GPU
            assert torch.equal(there.cpu(), here)
        assert trainer.run(lambda info: None).teacher.tensors


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, CheckResult]]:
    """Of a run with every attack and metric, by subject and check."""
    folder = tmp_path_factory.mktemp("gpu")
    attacks = ", ".join(
        f"{{name: {name}, num_prompts: 2{', ' + more if more else ''}}}"
        for name, more in LEAST.items()
    )
    quality = "quality: {fid: 900, kid: 90, clip: 1, lpips: 9, null_drift: 9}"
    plan = small_plan(
        folder,
        ("base: embedded}", "base: embedded, dtype: float16, scheduler: ddim}"),
        *FEWER,
        ("  collapse:", f"  attacks: [{attacks}]\n  {quality}\n  collapse:"),
    )
    load = safediff.workflow.erase.load_backbone
    with pytest.MonkeyPatch.context() as patch, FakeGpu():
        patch.setattr(safediff.workflow.erase, "load_backbone", loading_on_gpu(load))
        outcome = erase(plan, open_run(plan, folder / "run", resume=False), SilentUi())
    return {r.subject: {result.id: result for result in r.results} for r in outcome.reports}


def test_every_attack_is_tried() -> None:
    assert {*LEAST, "cached"} == {*ATTACKS}


def test_a_run_ends_with_an_engine(results: dict[str, dict[str, CheckResult]]) -> None:
    assert {*results} == {"teacher", "student", "onnx engine"}
    parity = results["onnx engine"]["parity/onnx engine"]
    assert parity.estimate is not None
    assert parity.estimate < 1e-3
    for subject in results.values():
        for metric in ("fid", "kid", "clip", "lpips", "null_drift"):
            assert subject[f"quality/{metric}"].verdict is Verdict.PASS


@pytest.mark.parametrize("name", LEAST)
def test_every_attack_was_made(results: dict[str, dict[str, CheckResult]], name: str) -> None:
    """In float16, whose range Adam's moments, gradients of a mean and 1 - alpha fall out of."""
    found = results["teacher"][f"robustness/{name}"]
    assert found.estimate is not None, found.message
    assert "could not be drawn" not in found.message
    if name == "closed-form":  # on the weights that the engine holds
        assert results["onnx engine"][f"robustness/{name}"].estimate is not None


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", ["sd", "sd-v", "sdxl", *FAMILIES])
def test_every_family_is_erased_there(tmp_path: Path, family: str) -> None:
    """With what training can be asked for; what else a family offers is tried too."""
    if family in UNETS:
        backbone = as_backbone("tiny", UNETS[family](tmp_path))
    else:
        backbone = example(family, tmp_path).backbone
    for part in backbone.components().values():
        if isinstance(part, nn.Module):
            nn.Module.to(part.requires_grad_(False), torch.bfloat16)
    backbone = on_gpu(backbone)
    params = replace(SMALL, batch_size=4, keep_share=0.5, micro_batch=1, eta=0.3)
    params = replace(params, target="frozen", order="remaining")
    if family in UNETS:
        params = replace(params, trainable="kv", null_space=0.1, warm_start=0.5)
    with FakeGpu():
        erased = small_trainer(backbone, params).run(lambda info: None, tmp_path / "checkpoint")
        assert erased.teacher.tensors
        (first, *_) = null_drift(backbone, backbone)
        assert first[1] == 0.0
        if family in UNETS:
            for method in ("uce", "rece", "speed"):
                patch = solve(backbone, CONCEPTS, KEEP, resolve(method, "safediff", {}))
                assert patch.tensors
            for guard in ("neg", "sld-medium", "sega"):
                options = (Sampling(num_steps=2, guidance_scale=3.0), make_guard(guard, ["axe"]))
                texts = [backbone.encode([text]) for text in ("", "axe")]
                assert denoise_all(backbone, [Draw("axe")], *texts, *options).isfinite().all()
