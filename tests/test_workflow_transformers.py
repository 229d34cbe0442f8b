"""A whole run on each transformer family: erase, verify, release, load with diffusers.

Random networks draw nothing that a judge of pictures could name. The judge here is told by the
sampler whether a picture is nearer to the base model's for the same prompt and latents, or to the
base model's for the empty prompt: then what the prompt says is gone.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from small_policy import write_policy
from test_verify_attacks import ReadingJudge, labels
from transformer_examples import FAMILIES, example

from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.patch import apply_patch, load_patch, unet_sha256
from safediff.policy.load import load_plan
from safediff.release.audit import audit
from safediff.release.certificate import CERTIFICATE_NAME
from safediff.release.checksums import SUMS_NAME, write_checksums
from safediff.release.weights import TRANSFORMER_PATH
from safediff.sample.sampler import Draw, Picture, Sampling, denoise_all
from safediff.serve.pipeline import SafePipeline
from safediff.workflow.deploy import deploy_run
from safediff.workflow.engines import ENGINE
from safediff.workflow.erase import erase
from safediff.workflow.export import export_run, swap
from safediff.workflow.run_folder import open_run
from safediff.workflow.subject import open_subject
from safediff.workflow.ui import SilentUi

# diffusers' DPM solver computes with NumPy on tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
KEPT = ("crown", "key", "heart", "star", "pizza", "owl", "car", "bus")
ERASE = """\
  options:
    {num_steps: 8, learning_rate: 2.0e-2, num_inference_steps: 6, batch_size: 2, reuse: 2,
     save_every_s: 0, log_every: 2}"""
OPTIONS = """\
  options:
    {{num_steps: {steps}, learning_rate: {rate}, trainable: {trainable}, eta: {eta},
     num_inference_steps: 4, batch_size: 12, reuse: 2, null_space: 0.0, keep_share: 0.5,
     ema_decay: 0.0, timesteps: uniform, guidance_scale: 3.0, log_every: 50}}"""
TUNED: Mapping[str, Mapping[str, Any]] = {
    "pixart-alpha": {"steps": 240, "rate": 5.0e-3, "trainable": "xattn", "eta": 1.0},
    "sd3": {"steps": 160, "rate": 5.0e-3, "trainable": "full", "eta": 1.0},
    "flux dev": {"steps": 160, "rate": 2.0e-2, "trainable": "xattn", "eta": 0.3},
}
"""A random network tells texts apart by little, so it needs many kept texts and long training."""
PROTECTED = (
    *("hammer", "wrench", "banana", "rose", "anchor", "bell", "book", "bread", "camera", "candle"),
    *("cat", "chair", "cheese", "cherry", "clock", "cloud", "corn", "cow", "dog", "drum", "fish"),
    *("flag", "fox", "guitar"),
)
"""Kept while training; retention is measured on ``KEPT``, which training never sees."""


class Observer:
    """Samples for real, and writes into the first pixel what the prompt's picture still shows."""

    def __init__(self) -> None:
        self.base: Backbone | None = None

    @torch.no_grad()
    def sample(
        self,
        backbone: Backbone,
        draws: Sequence[Draw],
        sampling: Sampling,
        on_batch: Callable[[int], None],
        guard: Any = None,
    ) -> Iterator[list[Picture]]:
        self.base = self.base or backbone
        for part, own in sampling.batches(draws):
            prompts = [draw.prompt for draw in part]
            z, told, null = (
                denoise_all(
                    model,
                    part,
                    model.encode([""]).repeat(len(part)),
                    model.encode(texts),
                    own,
                )
                for model, texts in (
                    (backbone, prompts),
                    (self.base, prompts),
                    (self.base, [""] * len(part)),
                )
            )
            images, finite = backbone.decode(z)
            near = (z - told).flatten(1).norm(dim=1) < (z - null).flatten(1).norm(dim=1)
            for image, draw, shown in zip(images, part, near.tolist(), strict=True):
                (thing,) = {"bomb", "axe", *KEPT} & {*draw.prompt.replace(",", "").split()}
                image[0, 0, 0] = labels().index(thing) if shown else 255
            yield [
                Picture(draw=draw, image=image, finite=ok)
                for draw, image, ok in zip(part, images, finite.tolist(), strict=True)
            ]
            on_batch(len(part))


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safediff.verify.album.sample", Observer().sample)
    monkeypatch.setattr(
        "safediff.verify.verification.load_judges", lambda names: {"embedded": ReadingJudge()}
    )
    # it reads what was drawn of, which an empty picture does not say
    monkeypatch.setattr("safediff.workflow.proofs.prove_sight", lambda judges, size: None)
    monkeypatch.setattr("safediff.models.flux.LATENT_SIZE", 8)


def policy(folder: Path, variant: str, *edits: tuple[str, str]) -> Path:
    """A policy on a saved tiny pipeline."""
    example(variant, folder / "tokenizer").pipeline.save_pretrained(folder / "model")
    return write_policy(
        folder,
        ("base: embedded", f"base: {folder / 'model'}"),
        ("keep: [hammer, wrench, owl, banana, rose, pizza]", f"keep: [{', '.join(PROTECTED)}]"),
        (ERASE, OPTIONS.format(**TUNED[variant])),
        ("guidance_scale: 5.0", "guidance_scale: 3.0"),
        *edits,
    )


NO_ENGINE = ("targets: [onnx]", "targets: []")
PARITY = {"pixart-alpha": 5e-5, "sd3": 1e-5, "flux dev": 1e-4}
"""In standard deviations."""


@pytest.mark.usefixtures("observed")
@pytest.mark.parametrize("variant", FAMILIES)
def test_a_run_ends_in_a_release(variant: str, tmp_path: Path) -> None:
    plan = load_plan(policy(tmp_path, variant))
    run = open_run(plan, tmp_path / "run", resume=False)
    small = example(variant, tmp_path / "again").backbone
    outcome = erase(plan, run, SilentUi(), base=small)
    said = [(r.subject, c.id, c.verdict, c.message) for r in outcome.reports for c in r.results]
    assert outcome.verdict.exit_code == 0, said
    assert outcome.released
    assert [report.subject for report in outcome.reports][-1] == ENGINE
    (parity,) = json.loads((run.release / CERTIFICATE_NAME).read_text())["deployment_parity"]
    assert parity["artifact"] == "transformer/model.onnx"
    assert parity["max_abs"] < PARITY[variant]
    assert parity["delta"]["survives"]
    assert 0 <= parity["margin_ratio"] < 1e-3

    base = load_backbone(plan.model)
    before = unet_sha256(base.denoiser)
    remove = apply_patch(base.denoiser, load_patch(run.patch))
    safe = unet_sha256(base.denoiser)
    assert safe != before
    certificate = run.release / CERTIFICATE_NAME
    assert audit(certificate, run.release, None, datetime.now(UTC)).problems == ()
    released = DiffusionPipeline.from_pretrained(run.release)
    assert type(released).__name__ == base.pipeline_name
    assert unet_sha256(released.transformer) == safe
    opened = open_subject(str(run.release)).models["release"]
    assert unet_sha256(opened.denoiser) == safe
    by_engine = SafePipeline.from_release(run.release)
    assert by_engine.trust.engine == "onnx"
    (picture,), (plain,) = (
        pipeline("an axe")
        for pipeline in (by_engine, SafePipeline.from_release(run.release, engine="torch"))
    )
    assert picture.size == (16, 16)
    assert np.abs(np.asarray(picture, int) - np.asarray(plain, int)).max() <= 1
    assert "pipe.transformer = ExportedTransformer" in (run.release / "README.md").read_text()
    _check_further_engines(run.path, tmp_path)
    remove()
    assert unet_sha256(base.denoiser) == before
    # the base's weights in the release's place, with new checksums
    base.denoiser.save_pretrained(run.release / "transformer")
    (run.release / SUMS_NAME).unlink()
    write_checksums(run.release)
    found = audit(certificate, run.release, None, datetime.now(UTC)).problems
    assert any(TRANSFORMER_PATH in problem for problem in found)
    c, own = opened.encode(["an axe"]), base.encode(["an axe"])
    assert torch.equal(c.hidden, own.hidden)


def _check_further_engines(run: Path, folder: Path) -> None:
    """Swapping into the release's graph works; what is there for UNets alone is refused."""
    report = swap(run, run / "release", folder / "swapped")
    assert report.passed
    for refused in (
        lambda: deploy_run(run, folder / "full", "fp32", 18),
        lambda: export_run(run, folder / "int8", "int8", 18),
    ):
        with pytest.raises(UsageError, match="covers UNets; its denoiser is a transformer"):
            refused()


def test_an_unknown_network_is_refused_before_the_training(tmp_path: Path) -> None:
    plan = load_plan(policy(tmp_path, "sd3"))
    run = open_run(plan, tmp_path / "run", resume=False)
    model = load_backbone(plan.model)
    other = type("OtherTransformer", (), {"config": model.denoiser.config})()
    with pytest.raises(UsageError, match="OtherTransformer: the ONNX export covers"):
        erase(plan, run, SilentUi(), base=model.with_denoiser(other))
    assert not run.checkpoint.exists()


def test_a_guard_is_refused_before_the_training(tmp_path: Path) -> None:
    guard = ("export:", "guard: {name: neg}\nexport:")
    plan = load_plan(policy(tmp_path, "flux dev", NO_ENGINE, guard))
    run = open_run(plan, tmp_path / "run", resume=False)
    with pytest.raises(UsageError, match="its guidance is distilled"):
        erase(plan, run, SilentUi())
    assert not run.checkpoint.exists()
