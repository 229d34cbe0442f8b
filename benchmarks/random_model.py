"""Models of a given architecture with random weights, for measurements that no picture comes of."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from safediff.models.architecture import Architecture
from safediff.models.backbone import Condition
from safediff.models.stable_diffusion import StableDiffusion
from safediff.policy.plan import ConceptPlan

CONCEPT = ConceptPlan(
    name="axe",
    erase=("axe", "bomb"),
    labels=("axe",),
    judge="embedded",
    phrasings=("axe", "a photo of an axe", "bomb", "a photo of a bomb"),
    prompts=(),
)
KEEP = ("hammer", "teacup", "a red apple", "a photo of a chair")
NUM_TOKENS = 77


class RandomTexts(StableDiffusion):
    """Texts become random states, the same for the same text."""

    def encode(self, texts: Sequence[str]) -> Condition:
        """One row a text."""
        config = self.denoiser.config
        first = next(self.denoiser.parameters())
        hidden = [self._states(text, NUM_TOKENS, config.cross_attention_dim) for text in texts]
        condition = Condition(torch.stack(hidden).to(first))
        if config.addition_embed_type != "text_time":
            return condition
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        pooled = torch.cat([self._states(text, 1, width) for text in texts]).to(first)
        added = {"text_embeds": pooled, "time_ids": torch.ones(len(texts), 6).to(first)}
        return Condition(condition.hidden, added)

    def spelt_tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """One token a word, start and end."""
        lengths = torch.tensor([len(text.split()) + 2 for text in texts])
        return torch.arange(NUM_TOKENS) < lengths[:, None]

    @staticmethod
    def _states(text: str, *shape: int) -> torch.Tensor:
        seed = int.from_bytes(text.encode()[-7:], "little")
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_backbone(
    architecture: Architecture, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> RandomTexts:
    """A UNet with random weights, made on ``device``; no text encoder and no VAE."""
    lacking: Any = None
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            unet = UNet2DConditionModel.from_config(dict(architecture.unet))
    finally:
        torch.set_default_dtype(default)
    return RandomTexts(
        name="random",
        denoiser=unet.requires_grad_(False).eval(),
        text_encoder=lacking,
        tokenizer=lacking,
        vae=lacking,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    )
