"""Quality limits of a policy: what they are measured on, and choices without effect."""

from pathlib import Path

import pytest
from policy_examples import findings, plan_of


def limits(text: str) -> tuple[str, str]:
    return "verify:\n", f"verify:\n  quality: {{{text}}}\n"


def test_the_judge_is_the_default(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, limits("fid: 3.0, clip: 0.1, lpips: 0.2, null_drift: 0.1"))
    assert [(check.metric, check.limit) for check in plan.verify.quality] == [
        ("fid", 3.0),
        ("clip", 0.1),
        ("lpips", 0.2),
        ("null_drift", 0.1),
    ]
    assert {(check.features, check.weights) for check in plan.verify.quality} == {("judge", None)}


def test_features_and_net_reach_the_metrics_that_use_them(tmp_path: Path) -> None:
    text = "fid: 3.0, kid: 0.1, clip: 0.1, lpips: 0.2, features: inception, lpips_net: vgg"
    plan = plan_of(tmp_path, limits(text))
    assert [(check.metric, check.features) for check in plan.verify.quality] == [
        ("fid", "inception"),
        ("kid", "inception"),
        ("clip", "judge"),
        ("lpips", "vgg"),
    ]
    assert plan.sha256 != plan_of(tmp_path, limits(text.replace("vgg", "alex"))).sha256


def test_weights_are_found_beside_the_policy(tmp_path: Path) -> None:
    for name in ("i.pth", "a.safetensors"):
        (tmp_path / name).touch()
    text = "kid: 0.1, lpips: 0.2, features: inception, lpips_net: alex"
    text += ", features_weights: i.pth, lpips_weights: a.safetensors"
    kid, lpips = plan_of(tmp_path, limits(text)).verify.quality
    assert kid.weights == str(tmp_path / "i.pth")
    assert lpips.weights == str(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "fid: 1.0, features: incepton",
            "features: expected 'judge', 'inception' or 'clip', got text",
        ),
        ("lpips: 0.2, lpips_net: squeeze", "lpips_net: expected 'judge', 'alex' or 'vgg', got"),
        (
            "lpips: 0.2, features: inception",
            "features: 'inception' would not be used: there is no limit on fid or kid",
        ),
        ("kid: 0.2, lpips_net: alex", "lpips_net: 'alex' would not be used: there is no limit on"),
        (
            "kid: 0.2, features_weights: far.txt",
            "features_weights: would not be used: the judge brings its own weights; choose another "
            "features",
        ),
        (
            "lpips: 0.2, lpips_net: vgg, lpips_weights: gone.pth",
            "lpips_weights: no such file: {folder}/gone.pth",
        ),
    ],
)
def test_refusals(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = findings(tmp_path, limits(text))
    line, column, _, rest = found.split(":", 3)
    key = expected.split(":")[0]
    assert (line, int(column)) == ("14", len("  quality: {") + text.index(f"{key}: ") + 1)
    assert rest.startswith(f" verify.quality.{expected.format(folder=tmp_path)}")
