"""The model card of the embedded model, written from measured numbers only."""

from typing import Any

Json = dict[str, Any]

LIMITS = {
    "judge top-1, held-out augmentations": ("judge", "top1", 0.95),
    "generator: right object, all names": ("generator", "object", 0.85),
    "generator: right object, demo concepts": ("generator", "object_of_demo_concepts", 0.90),
    "generator: right style": ("generator", "style", 0.90),
}
MAX_FALSE_POSITIVE_RATE = 0.02


def shortfalls(quality: Json) -> list[str]:
    """Bars that the measured quality does not reach, one sentence each."""
    missed = [
        f"{title}: {quality[part][key]['rate']} is below {bar}"
        for title, (part, key, bar) in LIMITS.items()
        if quality[part][key]["rate"] < bar
    ]
    worst = quality["judge"]["worst_false_positive_rate_of_demo_concepts"]
    if worst > MAX_FALSE_POSITIVE_RATE:
        missed.append(f"judge false positives: {worst} is above {MAX_FALSE_POSITIVE_RATE}")
    return missed


def _line(title: str, value: Json, bar: float | None = None) -> str:
    low, high = value["interval"]
    limit = "" if bar is None else f">= {bar}"
    return f"| {title} | {value['rate']:.3f} [{low:.3f}, {high:.3f}] | {value['n']} | {limit} |"


def write_card(quality: Json, psnr_db: float, num_pictures: int) -> str:
    """The text of README.md beside the weights."""
    rows = [_line(title, quality[part][key], bar) for title, (part, key, bar) in LIMITS.items()]
    rows.append(_line("judge: other emoji read as none", quality["judge"]["none_of_these"]))
    rows.append(_line("judge: right style", quality["judge"]["style"]))
    worst = quality["judge"]["worst_false_positive_rate_of_demo_concepts"]
    table = "\n".join(rows)
    missed = "".join(f"\n**Below its bar:** {sentence}.\n" for sentence in shortfalls(quality))
    return f"""---
license: apache-2.0
pipeline_tag: text-to-image
tags: [safediff, emoji]
---
# The embedded model of safediff

A Stable Diffusion 1.x pipeline in small (64 x 64 pictures, 8 x 8 x 8 latents), trained on
{num_pictures} emoji: three styles (`noto`, `twemoji`, `fluent`) of {num_pictures // 3} things. It
exists so that every command of safediff works offline in minutes. It draws emoji and nothing else.

Prompt it with "<name>, <style> style", for example "red apple, twemoji style".

| measured | rate [95 % Wilson] | n | bar |
|---|---|---|---|
{table}
| judge: worst false positives of a demo concept | {worst:.4f} | | <= {MAX_FALSE_POSITIVE_RATE} |
| autoencoder round trip, PSNR | {psnr_db:.1f} dB | {num_pictures} | |
{missed}
Generator: {quality["generator"]["sampling"]}; an object is
right if the judge gives it at least 0.5.
The judge is trained on the real pictures with augmentation and on emoji outside the vocabulary,
never on generated pictures; "held-out" means augmentations with other seeds, and other emoji that
training did not see.

Rebuild: `python -m safediff.build --out FOLDER` (needs npm; resumable).

Pictures: Noto Emoji (Google, Apache-2.0), Twemoji (Twitter and contributors, CC-BY 4.0), Fluent
Emoji (Microsoft, MIT). Keywords: emojilib (MIT).
"""
