"""A small random CLIP model on disk: the real classes, real preprocessing, no meaning."""

from pathlib import Path

import torch
from tiny import NUM_TOKENS, TEXT_DIM, perturb, tiny_tokenizer
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

SIDE_PX = 32
WIDTH = 12


def write_clip(folder: Path) -> Path:
    tokenizer = tiny_tokenizer(folder)
    tokenizer.save_pretrained(folder)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_DIM,
        "intermediate_size": 2 * TEXT_DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": NUM_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE_PX,
        "patch_size": 8,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    torch.manual_seed(0)
    perturb(CLIPModel(config), scale=0.1).save_pretrained(folder)
    return folder


def pictures(count: int, height: int = 48, width: int = 40, seed: int = 0) -> Tensor:
    """Random colours in blocks, so that resizing leaves something of them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, -(-height // 8), -(-width // 8))
    blocks = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :height, :width]
