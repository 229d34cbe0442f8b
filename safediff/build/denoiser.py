"""Stage 2: the UNet and its text encoder, trained together on the latents of the pictures."""

import random
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from safediff.build.captions import draw_caption
from safediff.build.data import Picture
from safediff.build.loop import Schedule, train
from safediff.build.vae import to_unit

SCHEDULE = Schedule(
    num_steps=4800, learning_rate=1e-3, weight_decay=1e-3, num_warmup_steps=200, ema_decay=0.999
)
REFINE = Schedule(
    num_steps=4000,
    learning_rate=4e-4,
    weight_decay=1e-3,
    num_warmup_steps=50,
    ema_decay=0.999,
    seed=100_000,
)
"""A second, lower cycle from the first one's EMA: styles differ in details that come late."""
BATCH_SIZE = 64


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.x."""
    scheduler: DDIMScheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return scheduler


class Denoiser(nn.Module):
    """UNet and text encoder; forward gives the noise prediction for tokenised captions."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=512,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                projection_dim=128,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            block_out_channels=(96, 192),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=128,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Noise prediction, shape of ``z`` (b, 8, 8, 8); tokens (b, 77)."""
        hidden = self.text_encoder(tokens).last_hidden_state
        out: Tensor = self.unet(z, t, encoder_hidden_states=hidden, return_dict=False)[0]
        return out


def train_denoiser(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    items: list[Picture],
    pixels: Tensor,
    folder: Path,
    schedule: Schedule = SCHEDULE,
    refine: Schedule = REFINE,
) -> Denoiser:
    """Train with the noise-prediction loss of DDPM (arXiv:2006.11239, eq. 14); returns the EMA."""
    torch.manual_seed(schedule.seed)
    model = Denoiser(tokenizer)
    model.unet.to(memory_format=torch.channels_last)  # 8 % faster on CPUs, equal gradients
    noiser = new_scheduler()
    with torch.no_grad():
        posterior = [vae.encode(to_unit(part)).latent_dist for part in pixels.split(64)]
        mean = torch.cat([p.mean for p in posterior])
        std = torch.cat([p.std for p in posterior])

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(items), (BATCH_SIZE,), generator=generator)
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        captions = [draw_caption(items[i], rng) for i in chosen.tolist()]
        tokens = tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        z_0 = mean[chosen] + std[chosen] * torch.randn(mean[chosen].shape, generator=generator)
        noise = torch.randn(z_0.shape, generator=generator)
        t = torch.randint(1000, (BATCH_SIZE,), generator=generator)
        z_t = noiser.add_noise(z_0, noise, cast(torch.IntTensor, t)).to(
            memory_format=torch.channels_last
        )
        return F.mse_loss(model(z_t, t, tokens), noise)

    model.load_state_dict(train(model, loss_of, schedule, folder, "denoiser"))
    model.load_state_dict(train(model, loss_of, refine, folder / "refine", "refine"))
    return model.requires_grad_(False).eval()
