"""Whole runs of a float16 model on a device that is not there; tensors that were left behind."""

from pathlib import Path

import pytest
import torch
from fake_gpu import GPU, FakeGpu, OnGpu, loading_on_gpu, on_gpu
from small_policy import small_plan
from tiny import tiny_pipeline, tiny_v_pipeline, tiny_xl_pipeline

import safediff.workflow.erase
from safediff.attack.params import ATTACKS
from safediff.gate.verdict import CheckResult, Verdict
from safediff.models.load import as_backbone
from safediff.sample.sampler import Draw, Sampling, denoise_all
from safediff.workflow.erase import erase
from safediff.workflow.run_folder import open_run
from safediff.workflow.ui import SilentUi

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
@pytest.mark.parametrize("make", [tiny_pipeline, tiny_v_pipeline, tiny_xl_pipeline])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_unet_family_draws_there_what_it_draws_here(tmp_path: Path, make: object) -> None:
    assert callable(make)
    draws = [Draw("an axe"), Draw("owl")]

    def drawn() -> torch.Tensor:
        null, c = backbone.encode([""]).repeat(2), backbone.encode([d.prompt for d in draws])
        sampling = Sampling(num_steps=3, guidance_scale=3.0)
        return backbone.decode(denoise_all(backbone, draws, null, c, sampling))[0]

    backbone = as_backbone("tiny", make(tmp_path))
    expected = drawn()
    backbone = on_gpu(backbone)
    with FakeGpu():
        found = drawn()
        assert isinstance(found, OnGpu)
        assert torch.equal(found.cpu(), expected)
        with pytest.raises(RuntimeError, match="two devices"):
            backbone.denoise(torch.zeros(2, 4, 8, 8), torch.tensor(5), backbone.encode(["", "owl"]))


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
