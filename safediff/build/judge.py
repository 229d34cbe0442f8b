"""Stage 3: the judge, trained on real pictures with strong augmentation, never on generated ones.

"None of these" is learned from emoji outside the vocabulary, from blends and shuffles of
pictures, and from what the autoencoder makes of noise: a broken generator must not be read as
any object.
"""

import random
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from safediff.build.augment import augment
from safediff.build.captions import draw_caption
from safediff.build.data import STYLES, Picture
from safediff.build.loop import Schedule, train
from safediff.build.names import NAMES
from safediff.build.vae import to_unit
from safediff.judge.network import JudgeNetwork

SCHEDULE = Schedule(
    num_steps=2600, learning_rate=2e-3, weight_decay=5e-2, ema_decay=0.995, seed=1_000_000
)
NUM_NAMED, NUM_OTHER, NUM_BROKEN = 64, 14, 12
LATENT_NOISE = (0.0, 0.15, 0.3)
NONE = len(NAMES)


def content_tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids without start, end and padding."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
    return ids


class JudgeData:
    """Pools of pictures in [-1, 1] that a batch is drawn from."""

    def __init__(
        self, vae: AutoencoderKL, named: Tensor, others: Tensor, generator: torch.Generator
    ) -> None:
        latents = torch.cat([vae.encode(to_unit(p)).latent_dist.mean for p in named.split(64)])
        self.named = [to_unit(named)] + [
            _decode(vae, latents + scale * torch.randn(latents.shape, generator=generator))
            for scale in LATENT_NOISE
        ]
        self.others = to_unit(others)
        noise = torch.randn(latents.shape, generator=generator)
        partner = latents[torch.randperm(len(latents), generator=generator)]
        self.broken = torch.cat(
            [
                _decode(vae, noise),
                _decode(vae, 0.5 * latents + noise),
                _decode(vae, 0.5 * latents + 0.5 * partner),
            ]
        )

    def draw_named(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """The chosen pictures, each from a random pool (as drawn, or through the autoencoder)."""
        pool = torch.randint(len(self.named), (len(chosen),), generator=generator)
        return torch.stack([self.named[p][i] for p, i in zip(pool, chosen, strict=True)])

    def draw_none(self, generator: torch.Generator) -> Tensor:
        """Other emoji, and pictures that show nothing whole."""
        other = self.others[torch.randint(len(self.others), (NUM_OTHER,), generator=generator)]
        broken = self.broken[torch.randint(len(self.broken), (NUM_BROKEN,), generator=generator)]
        third = NUM_BROKEN // 3
        named = self.named[0]
        pair = torch.randint(len(named), (2, third), generator=generator)
        blends = (named[pair[0]] + named[pair[1]]) / 2
        shuffled = _shuffle(named[pair.flip(1)[0]], generator)
        return torch.cat([other, broken, blends, shuffled])


@torch.no_grad()
def _decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return torch.cat([vae.decode(part).sample.clamp(-1, 1) for part in latents.split(64)])


def _shuffle(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut each picture into 4 x 4 tiles and put them in another order."""
    n = len(images)
    tiles = images.reshape(n, 3, 4, 16, 4, 16).permute(0, 2, 4, 1, 3, 5).reshape(n, 16, 3, 16, 16)
    tiles = tiles[:, torch.randperm(16, generator=generator)]
    return tiles.reshape(n, 4, 4, 3, 16, 16).permute(0, 3, 1, 4, 2, 5).reshape(n, 3, 64, 64)


def train_judge(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    items: list[Picture],
    named: Tensor,
    others: Tensor,
    folder: Path,
    schedule: Schedule = SCHEDULE,
) -> JudgeNetwork:
    """Train on ``named`` (one picture per item) and ``others``; returns the EMA network."""
    torch.manual_seed(schedule.seed)
    network = JudgeNetwork(len(NAMES), len(STYLES), len(tokenizer))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = JudgeData(vae, named, others, torch.Generator().manual_seed(schedule.seed))
    network.load_state_dict(
        train(network, _loss(network, data, tokenizer, items), schedule, folder, "judge")
    )
    return network.requires_grad_(False).eval()


def _loss(
    network: JudgeNetwork, data: JudgeData, tokenizer: CLIPTokenizer, items: list[Picture]
) -> Callable[[torch.Generator], Tensor]:
    names = {name: index for index, name in enumerate(NAMES)}
    objects = torch.tensor([names[item.name] for item in items])
    styles = torch.tensor([STYLES.index(item.style) for item in items])

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(items), (NUM_NAMED,), generator=generator)
        images = torch.cat([data.draw_named(chosen, generator), data.draw_none(generator)])
        vision = network.see(augment(images, generator).to(memory_format=torch.channels_last))
        target = torch.full((len(images),), NONE)
        target[:NUM_NAMED] = objects[chosen]
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        captions = [draw_caption(items[i], rng) or items[i].name for i in chosen.tolist()]
        texts = network.read(content_tokens(tokenizer, captions))
        return (
            F.cross_entropy(vision.object_logits, target, label_smoothing=0.05)
            + 0.5 * F.cross_entropy(vision.style_logits[:NUM_NAMED], styles[chosen])
            + 0.5 * _contrast(vision.embedding[:NUM_NAMED], texts, network.log_temperature)
        )

    return loss_of


def _contrast(images: Tensor, texts: Tensor, log_temperature: nn.Parameter) -> Tensor:
    """Symmetric InfoNCE of CLIP (arXiv:2103.00020, figure 3)."""
    logits = images @ texts.T * log_temperature.exp().clamp(max=50)
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
