"""Runs of a given size with random weights: what ``safediff export`` reads, without a training.

``write_runs`` makes a Stable Diffusion pipeline in a folder and two runs of one policy on it, whose
patches move the keys and values of cross-attention at random. They have no certificate: nothing was
measured, and nothing is claimed of what they draw.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from safediff.models.load import embedded_folder
from safediff.models.patch import Patch, save_patch, unet_sha256
from safediff.policy.load import load_plan
from safediff.workflow.run_folder import open_run

RUNS = ("run", "other-run")
EDITED = ("attn2.to_k.weight", "attn2.to_v.weight")
EDIT = 0.02
POLICY = """\
version: 1
name: random
model: {{base: {base}}}
prompts:
  templates: ["{{text}}, {{style}} style", "{{style}} style {{text}}"]
  values: {{style: [noto, twemoji, fluent]}}
concepts:
  - {{name: bomb, erase: [bomb]}}
  - {{name: axe, erase: [axe]}}
keep: [hammer, wrench, owl, banana, rose, pizza]
verify:
  erasure: {{max_rate: 0.5, num_prompts: 12}}
  retention:
    - {{name: ordinary, min_ratio: 0.1, num_prompts: 20, texts: [crown, key, heart, star]}}
  judge: {{min_specificity: 0.5}}
export: {{targets: [onnx]}}
"""
TEXT_ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "sd1": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "tiny": {
        "vocab_size": 49408,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}
VAES: Mapping[str, Mapping[str, Any]] = {
    "sd1": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    "tiny": {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4},
}


def write_runs(work: Path, size: str, unet: Any) -> None:
    """Write ``base``, the policy and ``RUNS`` into a folder.

    Args:
        work: Exists.
        size: A key of ``TEXT_ENCODERS``.
        unet: The base's, with random weights of that size.
    """
    base = work / "base"
    pipeline: Any = _pipeline(size, unet)
    pipeline.save_pretrained(base)
    policy = work / "random.yaml"
    policy.write_text(POLICY.format(base=base), encoding="utf-8")
    plan, sha256 = load_plan(policy), unet_sha256(unet)
    for seed, name in enumerate(RUNS):
        run = open_run(plan, work / name, resume=False)
        save_patch(Patch(tensors=_edit(unet, seed), base_sha256=sha256), run.patch)


def _edit(unet: Any, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: w + EDIT * torch.randn(w.shape, generator=generator)
        for name, w in unet.state_dict().items()
        if name.endswith(EDITED)
    }


def _pipeline(size: str, unet: Any) -> StableDiffusionPipeline:
    torch.manual_seed(1)
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder() / "tokenizer")
    config = CLIPTextConfig(
        **TEXT_ENCODERS[size],
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    levels = len(VAES[size]["block_out_channels"])
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=unet.config.in_channels,
            **VAES[size],
        ),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
