"""The shipped weights: small enough, plain diffusers, and as good as their card says."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from scipy.stats import binomtest

from safediff.build.card import LIMITS, MAX_FALSE_POSITIVE_RATE, shortfalls
from safediff.build.measure import GUIDANCE_SCALE
from safediff.build.names import ALCOHOL_TOBACCO, GAMBLING, NAMES, WEAPONS
from safediff.judge.embedded import EmbeddedJudge, embedded_judge_folder
from safediff.models.load import embedded_folder, load_backbone
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Draw, Sampling, sample

MAX_BYTES = 30_000_000
STYLES = ("noto", "twemoji", "fluent")
NUM_PICTURES = 24


@pytest.fixture(scope="module")
def quality() -> dict[str, Any]:
    text = (embedded_folder() / "quality.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


@pytest.fixture(scope="module")
def judge() -> EmbeddedJudge:
    return EmbeddedJudge()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_all_weights_together_are_small() -> None:
    found = [*files(embedded_folder()), *files(embedded_judge_folder())]
    assert 10_000_000 < sum(path.stat().st_size for path in found) <= MAX_BYTES


def test_no_weights_are_pickled() -> None:
    suffixes = {path.suffix for path in files(embedded_folder()) + files(embedded_judge_folder())}
    assert suffixes <= {".safetensors", ".json", ".txt", ".md"}


def test_plain_diffusers_loads_it() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(embedded_folder())
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("red apple, noto style", num_inference_steps=1).images[0]
    assert image.size == (64, 64)


def test_the_judge_knows_every_name_and_style(judge: EmbeddedJudge) -> None:
    assert judge.names == tuple(NAMES)
    assert {*judge.labels} == {*NAMES, *(f"{style} style" for style in STYLES)}


def test_every_label_is_calibrated(judge: EmbeddedJudge) -> None:
    for label in judge.labels:
        card = judge.calibration([label])
        assert 0 <= card.sensitivity_hits <= card.num_positives, label
        assert 0 <= card.false_alarms <= card.num_negatives, label
        assert min(card.num_positives, card.num_negatives) > 0, label


def test_the_card_states_n_and_intervals(quality: dict[str, Any]) -> None:
    for part, key, _ in LIMITS.values():
        value = quality[part][key]
        low, high = value["interval"]
        assert value["rate"] == pytest.approx(value["hits"] / value["n"], abs=1e-4)
        assert 0 <= low < value["rate"] <= high <= 1.0001
    assert quality["generator"]["object"]["n"] == len(NAMES) * len(STYLES)
    demo = len({**WEAPONS, **ALCOHOL_TOBACCO, **GAMBLING}) * len(STYLES)
    assert quality["generator"]["object_of_demo_concepts"]["n"] == demo
    card = (embedded_folder() / "README.md").read_text(encoding="utf-8")
    for part, key, _ in LIMITS.values():
        value = quality[part][key]
        assert f"{value['rate']:.3f} [{value['interval'][0]:.3f}" in card


def test_the_bars_hold(quality: dict[str, Any]) -> None:
    assert shortfalls(quality) == []


def test_a_missed_bar_is_seen(quality: dict[str, Any]) -> None:
    bad = json.loads(json.dumps(quality))
    bad["judge"]["top1"]["rate"] = 0.94
    bad["generator"]["style"]["rate"] = 0.89
    bad["judge"]["worst_false_positive_rate_of_demo_concepts"] = MAX_FALSE_POSITIVE_RATE + 0.01
    assert len(shortfalls(bad)) == 3


def test_a_sample_agrees_with_the_card(judge: EmbeddedJudge, quality: dict[str, Any]) -> None:
    """Other seeds than the card's; too few right pictures for the stated rates refute it."""
    rng = random.Random(7)
    wanted = [(name, rng.choice(STYLES)) for name in rng.sample(sorted(NAMES), NUM_PICTURES)]
    draws = [Draw(f"{name}, {style} style", index=1) for name, style in wanted]
    backbone = load_backbone(ModelPlan(base="embedded"))
    sampling = Sampling(
        num_steps=25, guidance_scale=GUIDANCE_SCALE, seed=1, batch_size=NUM_PICTURES
    )
    (pictures,) = sample(backbone, draws, sampling)
    scores = judge.score(torch.stack([picture.image for picture in pictures]))
    objects = [bool(scores.of(name)[i] >= judge.threshold) for i, (name, _) in enumerate(wanted)]
    seen = scores.probs[:, len(judge.names) :].argmax(1)
    styles = [judge.styles[int(k)] == style for k, (_, style) in zip(seen, wanted, strict=True)]
    for key, right in (("object", objects), ("style", styles)):
        stated = quality["generator"][key]["interval"][0]
        p_value = binomtest(sum(right), NUM_PICTURES, stated, alternative="less").pvalue
        assert p_value > 1e-3, (
            f"{key}: {sum(right)} of {NUM_PICTURES}, the card says at least {stated}"
        )
