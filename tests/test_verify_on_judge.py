"""Metrics that are taken on the judge need one that can give more than scores."""

from typing import Any

import pytest
import torch
from test_verify_quality import ALL, BASE, DRAWS, OTHER, check
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.gate.verdict import Verdict
from safediff.judge.embedded import EmbeddedJudge
from safediff.judge.nudenet import NudeNet
from safediff.policy.plan import Metric
from safediff.verify.on_judge import prove_judge, taken_on_judge
from safediff.verify.quality import QualityMeter

SIZE = (64, 64)
LACKS: dict[Metric, tuple[str, str]] = {
    "fid": ("features for FID and KID", "features"),
    "kid": ("features for FID and KID", "features"),
    "clip": ("space shared with texts", "clip_model"),
    "lpips": ("perceptual distance", "lpips_net"),
}


class Bare:
    """All that a judge must have, and no more."""

    name, labels, threshold, weights_sha256 = "bare", ("owl",), 0.5, "none"


class Unfinished(EmbeddedJudge):
    """Has every member by name; some are left as the protocol has them."""

    def features(self, images: Tensor) -> Tensor:
        return None  # type: ignore[return-value]

    def embed_texts(self, texts: Any) -> Tensor:
        return torch.zeros(0, 128)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return None  # type: ignore[return-value]


class Detector(NudeNet):
    def __init__(self) -> None:
        """Without weights: they are not asked for."""


def test_what_is_taken_on_the_judge() -> None:
    assert all(taken_on_judge(one) for one in ALL)
    others = check("fid", "inception"), check("lpips", "vgg"), check("null_drift")
    assert not any(taken_on_judge(one) for one in others)


def test_a_judge_that_can_give_all_is_proven() -> None:
    prove_judge(EmbeddedJudge(), ALL, SIZE)
    with pytest.raises(UsageError, match="reads 64 x 64 pictures, got 32 x 64"):
        prove_judge(EmbeddedJudge(), ALL, (32, 64))


@pytest.mark.parametrize("metric", LACKS)
@pytest.mark.parametrize("make", [Bare, Unfinished, Detector])
def test_what_it_cannot_give_is_said(make: Any, metric: Metric) -> None:
    judge, (what, key) = make(), LACKS[metric]
    with pytest.raises(Inconclusive) as said:
        prove_judge(judge, [check(metric)], SIZE)
    assert str(said.value) == f"judge {judge.name!r} has no {what}"
    assert said.value.next_step == f"say in the policy: verify.quality.{key}"


def test_where_it_is_not_proven_the_check_is_inconclusive() -> None:
    bare: Any = Bare()
    found = QualityMeter(ALL, bare, BASE, DRAWS).results(OTHER)
    assert {row.verdict for row in found} == {Verdict.INCONCLUSIVE}
    for row in found:
        what, key = LACKS[row.metric]  # type: ignore[index]
        assert row.message == (
            f"{row.metric} could not be measured: judge 'bare' has no {what}; next: say in the "
            f"policy: verify.quality.{key}"
        )
