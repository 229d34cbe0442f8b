"""Stage 1: the autoencoder, 3 x 64 x 64 pixels to 8 x 8 x 8 latents of unit variance."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from safediff.build.loop import Schedule, train

SCHEDULE = Schedule(num_steps=4800, learning_rate=2e-3, ema_decay=0.998)
BATCH_SIZE = 12
KL_WEIGHT = 1e-3


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder, 1 M parameters."""
    vae: AutoencoderKL = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
    )
    return vae


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels to floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def train_vae(pixels: Tensor, folder: Path, schedule: Schedule = SCHEDULE) -> AutoencoderKL:
    """Train on ``pixels`` (n, 3, 64, 64; uint8) and return the EMA model with unit latents."""
    torch.manual_seed(schedule.seed)
    vae = new_vae()
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-arg]

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)
        images = to_unit(pixels[chosen]).to(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        out = vae.decode(posterior.sample(generator)).sample
        kl = posterior.kl().mean() / images[0].numel()
        loss: Tensor = F.mse_loss(out, images) + 0.1 * _edge_loss(out, images) + KL_WEIGHT * kl
        return loss

    vae.load_state_dict(train(vae, loss_of, schedule, folder, "vae"))
    vae.requires_grad_(False).eval()
    whiten(vae, pixels)
    return vae


def _edge_loss(out: Tensor, images: Tensor) -> Tensor:
    """L1 between finite differences: keeps outlines sharp where MSE alone blurs them."""
    error = out - images
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


@torch.no_grad()
def whiten(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold each latent channel's mean and deviation into the 1 x 1 convolutions around it.

    Stable Diffusion's pipeline knows one scalar ``scaling_factor``; with this it is 1 and every
    channel has zero mean and unit variance.
    """
    means = torch.cat([vae.encode(to_unit(p)).latent_dist.mean for p in pixels.split(64)])
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
    count = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert isinstance(quant, nn.Conv2d)  # new_vae asks for both convolutions, with biases
    assert isinstance(post, nn.Conv2d)
    assert quant.bias is not None
    assert post.bias is not None
    quant.weight[:count] /= std[:, None, None, None]
    quant.bias[:count] = (quant.bias[:count] - mean) / std
    quant.bias[count:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


@torch.no_grad()
def psnr_db(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Mean peak signal-to-noise ratio of the round trip through the latent mean, in dB."""
    errors = []
    for part in pixels.split(64):
        out = vae.decode(vae.encode(to_unit(part)).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((out - to_unit(part)) / 2).square().mean((1, 2, 3)))
    return float(-10 * torch.cat(errors).log10().mean())
