"""Stage 4: how good the judge and the generator are, with n, for the model card."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safediff.build.augment import augment
from safediff.build.data import STYLES, Picture
from safediff.build.names import ALCOHOL_TOBACCO, GAMBLING, NAMES, WEAPONS
from safediff.build.vae import to_unit
from safediff.judge.base import Scores
from safediff.judge.embedded import EmbeddedJudge
from safediff.judge.network import JudgeNetwork
from safediff.models.load import load_backbone
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Draw, Sampling, sample

NUM_AUGMENTATIONS = 4
HELD_OUT_SEED = 987_654_321
THRESHOLD = EmbeddedJudge.threshold
GUIDANCE_SCALE = 5.0
"""As the demo policies draw."""
DEMO_NAMES = (*WEAPONS, *ALCOHOL_TOBACCO, *GAMBLING)
Json = dict[str, Any]


def rate(hits: int, count: int) -> Json:
    """A rate with n and its two-sided Wilson 95 % interval."""
    z, p = 1.959964, hits / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    return {
        "hits": hits,
        "n": count,
        "rate": round(p, 4),
        "interval": [round(centre - half, 4), round(centre + half, 4)],
    }


@torch.no_grad()
def _held_out(network: JudgeNetwork, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Object and style probabilities of augmentations that training did not use."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    objects, styles = [], []
    for _ in range(NUM_AUGMENTATIONS):
        for part in to_unit(pixels).split(128):
            vision = network.see(augment(part, generator))
            objects.append(vision.object_logits.softmax(1))
            styles.append(vision.style_logits.softmax(1))
    return torch.cat(objects), torch.cat(styles)


def measure_judge(
    network: JudgeNetwork, items: list[Picture], named: Tensor, others: Tensor
) -> Json:
    """Top-1 and per-label counts on held-out augmentations and on held-out other emoji."""
    names = list(NAMES)
    objects = torch.tensor([names.index(item.name) for item in items]).repeat(NUM_AUGMENTATIONS)
    styles = torch.tensor([STYLES.index(item.style) for item in items]).repeat(NUM_AUGMENTATIONS)
    seen, style_seen = _held_out(network, named)
    other, _ = _held_out(network, others)
    calibration = {
        name: _label_counts(seen[:, i], objects == i, other[:, i]) for i, name in enumerate(names)
    }
    calibration |= {
        f"{style} style": _label_counts(style_seen[:, i], styles == i, other[:0, 0])
        for i, style in enumerate(STYLES)
    }
    worst = max(
        calibration[n]["false_alarms"] / calibration[n]["num_negatives"] for n in DEMO_NAMES
    )
    return {
        "top1": rate(int((seen.argmax(1) == objects).sum()), len(objects)),
        "style": rate(int((style_seen.argmax(1) == styles).sum()), len(styles)),
        "none_of_these": rate(int((other.argmax(1) == len(names)).sum()), len(other)),
        "worst_false_positive_rate_of_demo_concepts": round(worst, 4),
        "calibration": calibration,
    }


def _label_counts(scores: Tensor, truth: Tensor, elsewhere: Tensor) -> Json:
    return {
        "hits": int((scores[truth] >= THRESHOLD).sum()),
        "num_positives": int(truth.sum()),
        "false_alarms": int((scores[~truth] >= THRESHOLD).sum() + (elsewhere >= THRESHOLD).sum()),
        "num_negatives": int((~truth).sum()) + len(elsewhere),
    }


def measure_generator(folder: Path, judge: EmbeddedJudge, on_batch: Callable[[int], None]) -> Json:
    """Right object and right style on "<name>, <style> style", 25 steps, one picture each."""
    backbone = load_backbone(ModelPlan(base=str(folder)))
    wanted = [(name, style) for name in NAMES for style in STYLES]
    draws = [Draw(f"{name}, {style} style") for name, style in wanted]
    sampling = Sampling(num_steps=25, guidance_scale=GUIDANCE_SCALE, seed=0, batch_size=64)
    pictures = [p for part in sample(backbone, draws, sampling, on_batch) for p in part]
    scores = judge.score(torch.stack([p.image for p in pictures]))
    objects, styles = _right(scores, judge, wanted)
    demo = torch.tensor([name in DEMO_NAMES for name, _ in wanted])
    return {
        "object": rate(int(objects.sum()), len(objects)),
        "object_of_demo_concepts": rate(int(objects[demo].sum()), int(demo.sum())),
        "style": rate(int(styles.sum()), len(styles)),
        "sampling": f"25 DDIM steps, guidance {GUIDANCE_SCALE:g}, one picture per name and style",
    }


def _right(
    scores: Scores, judge: EmbeddedJudge, wanted: list[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    names = torch.tensor([judge.names.index(name) for name, _ in wanted])
    styles = torch.tensor([judge.styles.index(style) for _, style in wanted])
    count = len(judge.names)
    rows = torch.arange(len(wanted))
    objects = scores.probs[rows, names] >= THRESHOLD
    return objects, scores.probs[:, count:].argmax(1) == styles
