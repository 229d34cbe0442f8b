"""The quality checks: on which features, for which pictures, and where those cannot be had."""

import atexit
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.gate.verdict import CheckResult, Verdict, overall
from safediff.judge.embedded import EmbeddedJudge
from safediff.metrics.distribution import fid, kid
from safediff.policy.plan import Metric, QualityCheck, QualitySource
from safediff.sample.sampler import Draw
from safediff.verify.album import Album
from safediff.verify.picture_files import path_of, write_picture
from safediff.verify.quality import QualityMeter

JUDGE = EmbeddedJudge()
NAMES = ("owl", "key", "star", "car", "rose", "pizza", "bus", "crown", "heart", "hammer")
DRAWS = tuple(Draw(name, 0) for name in NAMES)
MISSING = "torch-fidelity is not installed; next: pip install 'safediff[metrics]'"


def album(seed: int, failed: int = 0, level: int = 256) -> Album:
    """Noise, of which the last ``failed`` pictures do not count."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(DRAWS), 3, 64, 64)
    images = torch.randint(0, level, shape, generator=generator, dtype=torch.uint8)
    folder = Path(tempfile.mkdtemp(prefix="safediff-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for draw, image in zip(DRAWS, images, strict=True):
        write_picture(path_of(folder, draw), image)
    return Album(
        subject=f"noise {seed}",
        folder=folder,
        draws=DRAWS,
        good=torch.arange(len(DRAWS)) < len(DRAWS) - failed,
    )


BASE, OTHER = album(0), album(1, level=128)


def check(
    metric: Metric, features: QualitySource = "judge", weights: str | None = None
) -> QualityCheck:
    return QualityCheck(metric=metric, limit=1e-3, line=9, features=features, weights=weights)


def measure(subject: Album, *checks: QualityCheck, base: Album = BASE) -> list[CheckResult]:
    return QualityMeter(checks, JUDGE, base, DRAWS).results(subject)


ALL = (check("fid"), check("kid"), check("clip"), check("lpips"))


def test_equal_pictures_are_at_no_distance() -> None:
    found = measure(BASE, *ALL, check("null_drift"))
    assert [r.metric for r in found] == ["fid", "kid", "clip", "lpips"]
    assert {r.verdict for r in found} == {Verdict.PASS}
    assert [r.estimate for r in found] == pytest.approx([0, 0, 0, 0], abs=1e-9)


def test_other_pictures_are_further_away_than_allowed() -> None:
    found = measure(OTHER, *ALL)
    assert {r.verdict for r in found} == {Verdict.FAIL}
    real, fake = JUDGE.features(BASE.of(DRAWS)), JUDGE.features(OTHER.of(DRAWS))
    expected_fid, expected_kid = fid(real, fake), kid(real, fake)
    texts = JUDGE.embed_texts(NAMES)
    change = (JUDGE.embed_images(OTHER.of(DRAWS)) - JUDGE.embed_images(BASE.of(DRAWS))) * texts
    distance = JUDGE.distance(BASE.of(DRAWS), OTHER.of(DRAWS))
    expected = [expected_fid, expected_kid.mean, change.sum(1).mean(), distance.mean()]
    assert [r.estimate for r in found] == pytest.approx([float(x) for x in expected], rel=1e-5)
    assert [r.num_samples for r in found] == [10, 50, 10, 10]


def test_every_result_says_what_it_was_measured_on() -> None:
    facts = {"num_failures": 0, "features": "judge: embedded"}
    facts["weights_sha256"] = JUDGE.weights_sha256
    found = measure(OTHER, *ALL)
    assert [{k: r.details[k] for k in facts} for r in found] == [facts] * 4


def test_results_keep_what_their_intervals_were_made_of() -> None:
    found = {r.metric: r for r in measure(OTHER, *ALL)}
    distances = JUDGE.distance(BASE.of(DRAWS), OTHER.of(DRAWS))
    assert found["lpips"].details["std"] == pytest.approx(float(distances.std()), rel=1e-5)
    real, fake = JUDGE.features(BASE.of(DRAWS)), JUDGE.features(OTHER.of(DRAWS))
    assert found["kid"].details["std"] == pytest.approx(kid(real, fake).std, rel=1e-5)
    assert "std" not in found["fid"].details
    own = (JUDGE.embed_images(BASE.of(DRAWS)) * JUDGE.embed_texts(NAMES)).sum(1).mean()
    assert found["clip"].details["base_mean"] == pytest.approx(float(own), rel=1e-5)


def test_pictures_that_failed_make_every_metric_inconclusive() -> None:
    found = measure(album(0, failed=1), *ALL, base=album(0, failed=2))
    assert {r.verdict for r in found} == {Verdict.INCONCLUSIVE}
    assert {r.details["num_failures"] for r in found} == {2}
    assert [r.num_samples for r in found] == [8, 50, 8, 8]


def test_too_few_pairs_are_not_measured() -> None:
    found = measure(album(0, failed=7), *ALL)
    assert {(r.verdict, r.estimate) for r in found} == {(Verdict.INCONCLUSIVE, None)}


def test_without_the_extra_the_check_is_inconclusive_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    found = measure(BASE, check("fid", "inception"), check("kid", "inception"), check("clip"))
    assert [r.message for r in found[:2]] == [
        f"{metric} could not be measured: {MISSING}" for metric in ("fid", "kid")
    ]
    assert [r.verdict for r in found] == [Verdict.INCONCLUSIVE] * 2 + [Verdict.PASS]
    assert overall(found).exit_code == 3


class Means:
    """Stands where Inception stands: mean red and mean green."""

    name, weights_sha256 = "means", "0" * 64

    def features(self, images: Tensor) -> Tensor:
        self.counts.append(len(images))
        return images.float().mean((2, 3))[:, :2]

    def __init__(self, weights: Path | None) -> None:
        self.weights, self.counts = weights, list[int]()


class Gap:
    """Stands where LPIPS stands: the difference of the mean brightness."""

    name, weights_sha256 = "gap", "1" * 64

    def __init__(self, net: str, weights: Path | None) -> None:
        self.net, self.weights = net, weights

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a.float() - b.float()).mean((1, 2, 3)).abs()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Means | Gap]:
    """Everything that was loaded in place of the networks of the extra."""
    made: list[Means | Gap] = []

    def remember(make: Callable[..., Means | Gap]) -> Callable[..., Means | Gap]:
        def load(*arguments: object) -> Means | Gap:
            made.append(make(*arguments))
            return made[-1]

        return load

    monkeypatch.setattr("safediff.verify.quality.InceptionFeatures", remember(Means))
    monkeypatch.setattr("safediff.verify.quality.LpipsDistance", remember(Gap))
    return made


def test_chosen_features_and_nets_are_what_is_measured_on(loaded: list[Means | Gap]) -> None:
    chosen = check("fid", "inception", "/w/i.pth"), check("lpips", "vgg", "/w/v.pth")
    found = measure(OTHER, *chosen)
    means, gap = loaded
    assert isinstance(means, Means)
    assert isinstance(gap, Gap)
    assert (means.weights, gap.net, gap.weights) == (Path("/w/i.pth"), "vgg", Path("/w/v.pth"))
    expected = fid(*(x.of(DRAWS).float().mean((2, 3))[:, :2] for x in (BASE, OTHER)))
    assert found[0].estimate == pytest.approx(expected)
    assert found[1].estimate == pytest.approx(
        float((BASE.of(DRAWS).float() - OTHER.of(DRAWS).float()).mean((1, 2, 3)).abs().mean())
    )
    assert [r.details["features"] for r in found] == ["inception: means", "vgg: gap"]
    assert [r.details["weights_sha256"] for r in found] == ["0" * 64, "1" * 64]


def test_metrics_may_be_measured_on_different_features(loaded: list[Means | Gap]) -> None:
    mixed = measure(OTHER, check("fid"), check("kid", "inception"))
    (on_judge,) = measure(OTHER, check("fid"))
    (on_means,) = measure(OTHER, check("kid", "inception"))
    assert [r.estimate for r in mixed] == [on_judge.estimate, on_means.estimate]
    assert mixed[1].estimate != measure(OTHER, check("kid"))[0].estimate


def test_networks_are_loaded_once_and_see_the_base_once(loaded: list[Means | Gap]) -> None:
    quality = check("fid", "inception"), check("kid", "inception"), check("lpips", "alex")
    meter = QualityMeter(quality, JUDGE, BASE, DRAWS)
    for subject in (OTHER, album(2, failed=3)):
        meter.results(subject)
    means, _ = loaded
    assert isinstance(means, Means)
    assert sorted(means.counts) == [7, 10, 10]


def test_few_pictures_are_in_memory_at_a_time(
    loaded: list[Means | Gap], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = *ALL, check("kid", "inception"), check("lpips", "vgg")
    expected = measure(album(1, failed=1), *checks)
    monkeypatch.setattr("safediff.verify.quality.BATCH_SIZE", 3)
    monkeypatch.setattr("safediff.verify.quality.PAIRS_AT_A_TIME", 4)
    found = measure(album(1, failed=1), *checks)
    for a, b in zip(found, expected, strict=True):
        assert a.estimate == pytest.approx(b.estimate, rel=1e-4), a.metric
        assert (a.num_samples, a.verdict) == (b.num_samples, b.verdict)
    means = [source for source in loaded if isinstance(source, Means)][-1]
    assert sorted(means.counts) == [1, 3, 3, 3, 3, 3, 3]


def test_an_album_in_parts_is_the_whole_album() -> None:
    found = album(5)
    for draw in DRAWS[:4]:
        path_of(found.folder, draw).unlink()
    parts = [*found.batches(DRAWS, 3)]
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    assert torch.equal(torch.cat(parts), found.of(DRAWS))
    assert not parts[0].any()
    assert parts[1][1:].any()
    for draw in DRAWS[4:]:
        path_of(found.folder, draw).unlink()
    with pytest.raises(Inconclusive, match="none of 10 pictures can be read"):
        next(found.batches(DRAWS, 3))


def grey(draws: Sequence[Draw], levels: Sequence[int]) -> Album:
    folder = Path(tempfile.mkdtemp(prefix="safediff-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for draw, level in zip(draws, levels, strict=True):
        write_picture(path_of(folder, draw), torch.full((3, 8, 8), level, dtype=torch.uint8))
    good = torch.ones(len(draws), dtype=torch.bool)
    return Album(subject="grey", folder=folder, draws=tuple(draws), good=good)


def test_pictures_of_one_prompt_are_averaged_first(loaded: list[Means | Gap]) -> None:
    """Five pictures of each of two prompts: two samples, however many pictures."""
    draws = [Draw(name, i) for name in ("owl", "key") for i in range(5)]
    base, subject = grey(draws, [50] * 10), grey(draws, [50, 60, 70, 60, 60] + [70] * 5)
    (found,) = QualityMeter([check("lpips", "alex")], JUDGE, base, draws).results(subject)
    assert (found.num_samples, found.estimate) == (2, 15)
    assert found.details["std"] == pytest.approx(50**0.5)
    assert found.upper == pytest.approx(15 + 6.3138 * 5, rel=1e-4)


def test_what_could_not_be_loaded_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail(weights: Path | None) -> Means:
        tries.append(weights)
        raise Inconclusive("no weights", "get some")

    monkeypatch.setattr("safediff.verify.quality.InceptionFeatures", fail)
    quality = check("fid", "inception"), check("kid", "inception")
    meter = QualityMeter(quality, JUDGE, BASE, DRAWS)
    found = [*meter.results(BASE), *meter.results(OTHER)]
    assert tries == [None]
    assert {r.verdict for r in found} == {Verdict.INCONCLUSIVE}
    assert all(r.message.endswith("no weights; next: get some") for r in found)
