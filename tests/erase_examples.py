"""Two concepts and a trainer on the tiny backbone, for tests of the erasers."""

from pathlib import Path

from tiny import tiny_backbone

from safediff.erase.params import DistilParams
from safediff.erase.trainer import DistilTrainer
from safediff.models.backbone import Backbone
from safediff.policy.plan import ConceptPlan

KEEP = ("hammer", "teacup", "a red apple")

SMALL = DistilParams(
    num_steps=4,
    num_inference_steps=8,
    learning_rate=1e-3,
    batch_size=2,
    loss_text="each",
    rollout_text="each",
    log_every=100,
    save_every_s=0.0,
)


def concept(*texts: str) -> ConceptPlan:
    return ConceptPlan(
        name=texts[0],
        erase=texts,
        labels=texts,
        judge="embedded",
        phrasings=tuple(form.format(text) for text in texts for form in ("{}", "one {} here")),
        prompts=(),
    )


CONCEPTS = (concept("axe"), concept("bomb", "pistol"))


def frozen_backbone(folder: Path) -> Backbone:
    """``tiny_backbone`` without gradients, as ``load_backbone`` gives it."""
    backbone = tiny_backbone(folder)
    for part in (backbone.denoiser, backbone.text_encoder, backbone.vae):
        part.requires_grad_(False)
    return backbone


def small_trainer(
    backbone: Backbone,
    params: DistilParams = SMALL,
    seed: int = 7,
    concepts: tuple[ConceptPlan, ...] = CONCEPTS,
    keep: tuple[str, ...] = KEEP,
) -> DistilTrainer:
    return DistilTrainer(backbone, concepts, keep, params, seed)
