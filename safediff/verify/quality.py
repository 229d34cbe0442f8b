"""Quality of kept pictures, base against subject, on the same prompts and latents."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.gate import checks
from safediff.gate.cut import NUM_CUT
from safediff.gate.numbers import finite
from safediff.gate.verdict import CheckResult
from safediff.judge.base import Judge
from safediff.judge.clip_encoder import ClipEncoder, load_clip
from safediff.judge.on_clip import OnClip
from safediff.metrics.clip_score import clip_scores
from safediff.metrics.distribution import fid, kid
from safediff.metrics.inception import InceptionFeatures
from safediff.metrics.others import measure_other
from safediff.metrics.perceptual import LpipsDistance
from safediff.metrics.registry import METRICS
from safediff.metrics.sources import DistanceSource, EmbeddingSource, FeatureSource
from safediff.policy.plan import Plan, QualityCheck, QualitySource
from safediff.sample.sampler import Draw
from safediff.verify.album import Album
from safediff.verify.on_judge import require_members, taken_on_judge

MIN_PAIRS = 4
"""Of which KID needs two halves of two."""
BATCH_SIZE = 128
"""Pictures that are in memory at a time; whole batches of every source of features."""
PAIRS_AT_A_TIME = 64

S = TypeVar("S")
Choice = tuple[QualitySource, Path | None]
"""What to compare pictures on, and a file of its weights."""
FeaturesOf = Callable[[Choice], tuple[Tensor, Tensor]]
"""Of the base's and the subject's pictures."""


class Found(NamedTuple):
    """A metric and its standard deviation over ``num_samples`` prompts; for KID, subsets.

    Pictures of one prompt are averaged first: they are no samples of their own.
    """

    value: float
    std: float | None
    num_samples: int
    base_mean: float | None = None
    """What the base has of it, where the value is a change."""

    def details(self) -> dict[str, float]:
        """For the record: what the interval was made of."""
        known = {"std": finite(self.std), "base_mean": finite(self.base_mean)}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Base and subject pictures of the same prompts and latents."""

    good: Tensor
    """bool (number of draws,): where both pictures were drawn and judged."""
    draws: list[Draw]
    """Of those, n."""
    base: Album
    subject: Album

    @property
    def prompts(self) -> list[str]:
        """Of each pair."""
        return [draw.prompt for draw in self.draws]

    @property
    def num_failures(self) -> int:
        """Draws without a pair."""
        return len(self.good) - len(self.draws)


class QualityMeter:
    """Decides a plan's checks of picture quality for one subject after another.

    What they are measured on is loaded once. Where it cannot be had, the checks that need it are
    inconclusive and say what to do; the others are decided.
    """

    def __init__(
        self,
        quality: Sequence[QualityCheck],
        judge: Judge,
        base: Album,
        draws: Sequence[Draw],
        clip: Mapping[str, Any] | None = None,
    ) -> None:
        """``clip`` are the settings of the policy's CLIP model, for metrics that are taken on it.

        Its own judge need not be in use.
        """
        self.checks = [check for check in quality if check.metric != "null_drift"]
        self.judge, self.base, self.draws = judge, base, list(draws)
        self._feature_source = cache(partial(_feature_source, judge, clip or {}))
        self._distance_source = cache(partial(_distance_source, judge))
        self._base_features = cache(self._features_of_base)

    def results(self, subject: Album) -> list[CheckResult]:
        """One result per check; its details say on which features it was measured."""
        pairs = self._pairs(subject)
        features = cache(partial(self._features, pairs))
        return [self._result(check, pairs, features) for check in self.checks]

    def _result(self, check: QualityCheck, pairs: Pairs, features: FeaturesOf) -> CheckResult:
        try:
            source = self._source(check)
            found = self._measure(check, pairs, features)
        except Inconclusive as error:
            lacking = checks.quality(check, math.nan, None, 0, num_failures=pairs.num_failures)
            message = f"{check.metric} could not be measured: {error}; next: {error.next_step}"
            return replace(lacking, message=message)
        result = checks.quality(check, *found[:3], num_failures=pairs.num_failures)
        facts: dict[str, Any] = {"features": "of another package"} | found.details()
        if source is not None:
            facts["features"] = f"{check.features}: {source.name}"
            facts["weights_sha256"] = source.weights_sha256
            if check.metric == "clip" and (count := _num_cut(source, pairs.prompts)):
                facts[NUM_CUT] = count
        return replace(result, details={**result.details, **facts})

    def _source(self, check: QualityCheck) -> FeatureSource | DistanceSource | None:
        if check.metric not in METRICS.own:
            return None
        if taken_on_judge(check):
            require_members(self.judge, check)
        if check.metric == "clip":
            return _given(self._feature_source(_choice(check)))
        if check.metric == "lpips":
            return _given(self._distance_source(_choice(check)))
        return _given(self._feature_source(_choice(check)))

    def _measure(self, check: QualityCheck, pairs: Pairs, features: FeaturesOf) -> Found:
        n = len(pairs.draws)
        if n < MIN_PAIRS:
            return Found(math.nan, None if check.metric == "fid" else math.nan, n)
        if check.metric == "fid":
            return Found(fid(*features(_choice(check))), None, n)
        if check.metric == "kid":
            if len(set(pairs.prompts)) < MIN_PAIRS:
                return Found(math.nan, math.nan, n)
            mean, std, _, num_subsets = kid(*features(_choice(check)), pairs.prompts)
            return Found(mean, std, num_subsets)
        if check.metric not in METRICS.own:
            base, subject = pairs.base.of(pairs.draws), pairs.subject.of(pairs.draws)
            values = measure_other(check.metric, base, subject, pairs.prompts)
        elif check.metric == "clip":
            base, subject = self._clip_scores(pairs, _choice(check))
            found = _over_prompts(subject - base, pairs.prompts)
            return found._replace(base_mean=float(base.mean()))
        else:
            values = self._distances(pairs, _choice(check))
        return _over_prompts(values, pairs.prompts)

    def _features(self, pairs: Pairs, choice: Choice) -> tuple[Tensor, Tensor]:
        subject = self._features_of(pairs.subject, pairs.draws, choice)
        return self._base_features(choice)[pairs.good], subject

    def _features_of_base(self, choice: Choice) -> Tensor:
        return self._features_of(self.base, self.draws, choice)

    def _features_of(self, album: Album, draws: Sequence[Draw], choice: Choice) -> Tensor:
        source = _given(self._feature_source(choice))
        return torch.cat([source.features(part) for part in album.batches(draws, BATCH_SIZE)])

    def _distances(self, pairs: Pairs, choice: Choice) -> Tensor:
        source = _given(self._distance_source(choice))
        albums = pairs.base, pairs.subject
        base, subject = (album.batches(pairs.draws, PAIRS_AT_A_TIME) for album in albums)
        return torch.cat([source.distance(a, b) for a, b in zip(base, subject, strict=True)])

    def _clip_scores(self, pairs: Pairs, choice: Choice) -> tuple[Tensor, Tensor]:
        """cos(image, text) of each base picture and of each subject picture, (n,) each."""
        source = cast(EmbeddingSource, _given(self._feature_source(choice)))  # never Inception
        base, subject = (
            clip_scores(source, album.batches(pairs.draws, BATCH_SIZE), pairs.prompts)
            for album in (pairs.base, pairs.subject)
        )
        return base, subject

    def _pairs(self, subject: Album) -> Pairs:
        good = _good(self.base, self.draws) & _good(subject, self.draws)
        paired = [draw for draw, ok in zip(self.draws, good.tolist(), strict=True) if ok]
        return Pairs(good=good, draws=paired, base=self.base, subject=subject)


def _over_prompts(values: Tensor, prompts: Sequence[str]) -> Found:
    """The mean of values (n,) by picture, with its deviation over prompts."""
    rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    where = torch.tensor([rows[prompt] for prompt in prompts])
    sums = torch.zeros(len(rows), dtype=values.dtype).index_add(0, where, values)
    means = sums / where.bincount()
    std = float(means.std()) if len(rows) > 1 else math.nan
    return Found(float(means.mean()), std, len(rows))


def prove_sources(plan: Plan) -> None:
    """Load once what the plan's metrics are measured on, before anything that takes long.

    Raises:
        Inconclusive: a package or weights are missing.
    """
    clip = clip_settings(plan) or {}
    for check in plan.verify.quality:
        if check.metric not in METRICS.own:
            METRICS.load(check.metric)
        elif check.features in ("alex", "vgg"):
            LpipsDistance(check.features, _choice(check)[1])
        elif check.features == "inception":
            InceptionFeatures(_choice(check)[1])
        elif check.features == "clip":
            load_clip(clip["weights"], clip.get("revision"))


def clip_settings(plan: Plan) -> Mapping[str, Any] | None:
    """Those of the policy's CLIP judge, if it has one."""
    return {judge.name: judge.settings for judge in plan.judges}.get("clip")


def _good(album: Album, draws: Sequence[Draw]) -> Tensor:
    where = {draw: i for i, draw in enumerate(album.draws)}
    return album.good[[where[draw] for draw in draws]]


def _choice(check: QualityCheck) -> Choice:
    return check.features, None if check.weights is None else Path(check.weights)


def _feature_source(
    judge: Judge, clip: Mapping[str, Any], choice: Choice
) -> InceptionFeatures | EmbeddingSource | Inconclusive:
    """The source, or why it is not to be had: it is not tried again for the next subject."""
    name, weights = choice
    try:
        if name == "clip":
            return load_clip(clip["weights"], clip.get("revision"))
        return InceptionFeatures(weights) if name == "inception" else judge
    except Inconclusive as error:
        return error


def _num_cut(source: object, prompts: Sequence[str]) -> int:
    """How many prompts a CLIP model does not read whole; the embedded judge reads all."""
    encoder = source.encoder if isinstance(source, OnClip) else source
    return len(set(encoder.too_long(prompts))) if isinstance(encoder, ClipEncoder) else 0


def _distance_source(judge: Judge, choice: Choice) -> DistanceSource | Inconclusive:
    """The source, or why it is not to be had: it is not tried again for the next subject."""
    name, weights = choice
    try:
        return LpipsDistance(name, weights) if name == "alex" or name == "vgg" else judge
    except Inconclusive as error:
        return error


def _given(source: S | Inconclusive) -> S:
    if isinstance(source, Inconclusive):
        raise source
    return source
