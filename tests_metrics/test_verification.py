"""A policy that chooses Inception and LPIPS is measured on them, from the file to the verdict."""

from pathlib import Path

import pytest
import torch
from small_policy import small_plan

from safediff.gate.verdict import CheckResult, Verdict
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.plan import ModelPlan
from safediff.verify.verification import Verification


@pytest.fixture(scope="module")
def base() -> Backbone:
    return load_backbone(ModelPlan(base="embedded"))


def broken(base: Backbone) -> Backbone:
    """The base with a UNet that answers zero to every question."""
    other = load_backbone(ModelPlan(base="embedded"))
    with torch.no_grad():
        other.denoiser.conv_out.weight.zero_()
        other.denoiser.conv_out.bias.zero_()
    return other


def test_inception_and_lpips_decide(
    base: Backbone, tmp_path: Path, inception_weights: Path, alex_weights: Path
) -> None:
    quality = (
        "  quality:\n"
        "    {fid: 1.0, kid: 1.0, lpips: 0.01, features: inception, lpips_net: alex,\n"
        f"     features_weights: {inception_weights}, lpips_weights: {alex_weights}}}\n"
    )
    plan = small_plan(tmp_path, ("  collapse", f"{quality}  collapse"))
    found: dict[str, list[CheckResult]] = {}
    with Verification(plan, base, unet_sha256(base.denoiser), tmp_path / "out") as verification:
        for subject, backbone in (("same", base), ("broken", broken(base))):
            report, _ = verification.measure(subject, backbone, {"unet": subject})
            found[subject] = [r for r in report.results if r.kind == "quality"]
    assert [r.metric for r in found["same"]] == ["fid", "kid", "lpips"]
    assert {r.verdict for r in found["same"]} == {Verdict.PASS}
    fid, kid, lpips = found["broken"]
    assert {fid.verdict, lpips.verdict} == {Verdict.FAIL}
    same_kid, other_kid = found["same"][1].estimate, kid.estimate
    assert same_kid is not None
    assert other_kid is not None
    assert same_kid <= 0 < other_kid
    for results in found.values():
        measured_on = [str(r.details["features"]).split(" of ")[0] for r in results]
        assert measured_on == [*["inception: inception-v3-compat 2048"] * 2, "alex: alex"]
