"""``python -m safediff.build``: from npm packages to the embedded model, its judge and its card.

Stages keep checkpoints under ``--work``; run it again to go on. On two CPU cores the build takes
about two hours, most of it the denoiser.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file

from safediff.build.captions import build_tokenizer
from safediff.build.card import shortfalls, write_card
from safediff.build.data import (
    STYLES,
    install_packages,
    load_pixels,
    other_pictures,
    pictures,
)
from safediff.build.denoiser import Denoiser, new_scheduler, train_denoiser
from safediff.build.judge import train_judge
from safediff.build.measure import measure_generator, measure_judge
from safediff.build.names import NAMES
from safediff.build.vae import psnr_db, train_vae
from safediff.judge.embedded import EmbeddedJudge


def main() -> int:
    """Run all stages; 0 if every quality bar of the card is met, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m safediff.build", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/embedded"))
    parser.add_argument("--out", type=Path, default=Path("build/embedded/out"))
    parser.add_argument("--modules", type=Path, help="node_modules with the four packages")
    args = parser.parse_args()
    modules = args.modules or install_packages(args.work / "npm")
    items = pictures(modules)
    pixels = load_pixels(items)
    tokenizer = build_tokenizer(items, args.work / "tokenizer")
    vae = train_vae(pixels, args.work / "vae")
    denoiser = train_denoiser(vae, tokenizer, items, pixels, args.work / "denoiser")
    _save_pipeline(vae, denoiser, tokenizer, args.work / "tokenizer", args.out / "pipeline")
    others = load_pixels(other_pictures(modules, held_out=False))
    network = train_judge(vae, tokenizer, items, pixels, others, args.work / "judge")
    judge_quality = measure_judge(
        network, items, pixels, load_pixels(other_pictures(modules, held_out=True))
    )
    _save_judge(network, judge_quality, args.work / "tokenizer", args.out / "judge")
    judge = EmbeddedJudge(args.out / "judge")
    generator_quality = measure_generator(args.out / "pipeline", judge, _show_batch)
    quality = {"judge": judge_quality, "generator": generator_quality}
    card = write_card(quality, psnr_db(vae, pixels), len(items))
    (args.out / "pipeline" / "README.md").write_text(card)
    (args.out / "pipeline" / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    missed = shortfalls(quality)
    for sentence in missed:
        print(f"below the bar: {sentence}", file=sys.stderr)
    return 1 if missed else 0


def _show_batch(count: int) -> None:
    print(f"measured {count} pictures", file=sys.stderr)


def _save_pipeline(
    vae: AutoencoderKL, denoiser: Denoiser, tokenizer: object, vocabulary: Path, folder: Path
) -> None:
    """Write diffusers' folder in fp16, with all file forms of the tokenizer."""
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    pipeline.to(torch.float32)
    # transformers takes the type from here, diffusers loads its own parts in fp32
    config = folder / "text_encoder" / "config.json"
    stored = json.loads(config.read_text()) | {"dtype": "float32"}
    config.write_text(json.dumps(stored, indent=2) + "\n")
    _copy_vocabulary(vocabulary, folder / "tokenizer")


def _copy_vocabulary(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def _save_judge(
    network: torch.nn.Module, quality: dict[str, object], vocabulary: Path, folder: Path
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    save_file({n: v.contiguous() for n, v in state.items()}, folder / "judge.safetensors")
    card = {"names": list(NAMES), "styles": list(STYLES), "calibration": quality["calibration"]}
    (folder / "judge.json").write_text(json.dumps(card, indent=0) + "\n")
    _copy_vocabulary(vocabulary, folder / "tokenizer")


if __name__ == "__main__":
    sys.exit(main())
