"""Image grids: rows are prompts, column blocks are models, same seeds."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from safediff.errors import MAKE_ROOM
from safediff.guard.base import Guard
from safediff.models.backbone import Backbone
from safediff.policy.content import require_allowed
from safediff.sample.sampler import Draw, Sampling, sample
from safediff.sample.shards import ALONE, Shards
from safediff.workflow.run_folder import writing
from safediff.workflow.subject import open_subject

LABEL_PX = 22
GAP_PX = 16


def generate_grid(
    model: str,
    revision: str | None,
    prompts: Sequence[str],
    count: int,
    sampling: Sampling,
    out: Path,
    guard: Guard | None = None,
    shards: Shards = ALONE,
) -> None:
    """Draw ``count`` pictures of each prompt with each model that ``model`` stands for.

    Several processes share the pictures; process 0 writes the file. What its policy draws with a
    guard is drawn with it here; ``guard`` is set beside the last model in a block of its own.

    Raises:
        UsageError: there is no such model, or the content rules refuse a prompt.
        Inconclusive: the model cannot be loaded, the file cannot be written, or another process has
            ended.
    """
    require_allowed(prompts)
    subject = open_subject(model, revision)
    columns: dict[str, tuple[Backbone, Guard | None]] = {
        name: (backbone, None if name == "base" else subject.guard)
        for name, backbone in subject.models.items()
    }
    if guard is not None:
        name, (backbone, _) = list(columns.items())[-1]
        columns[f"{name}, {guard.name}"] = backbone, guard
    draws = [Draw(prompt, index) for prompt in prompts for index in range(count)]
    blocks = {name: _draw(*column, draws, sampling, shards) for name, column in columns.items()}
    if not shards.leads:
        return
    with writing(out, MAKE_ROOM):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".{out.name}.tmp")
        compose(blocks, prompts, count).save(temporary, format="PNG")
        temporary.replace(out)


def _draw(
    backbone: Backbone,
    guard: Guard | None,
    draws: Sequence[Draw],
    sampling: Sampling,
    shards: Shards,
) -> list[torch.Tensor]:
    """All pictures in order, in every process; each draws its whole batches."""
    everywhere, size = range(len(draws)), sampling.batch_size
    batches = shards.share(everywhere[start : start + size] for start in everywhere[::size])
    places = [place for batch in batches for place in batch]
    mine = [draws[place] for place in places]
    drawn = [p.image for b in sample(backbone, mine, sampling, guard=guard) for p in b]
    if shards.count == 1:
        return drawn
    size = shards.agree("size of a picture", lambda: list(drawn[0].shape))
    images = torch.zeros(len(draws), *size, dtype=torch.uint8)
    for place, image in zip(places, drawn, strict=True):
        images[place] = image
    shards.sum([images])  # every picture is in one process, and zero in the others
    return list(images)


def compose(
    blocks: dict[str, list[torch.Tensor]], prompts: Sequence[str], count: int
) -> Image.Image:
    """One block of ``count`` columns per model, a caption above each block and each row."""
    first = next(iter(blocks.values()))[0]
    zoom = max(1, 128 // first.shape[-1])
    side = first.shape[-1] * zoom
    width = len(blocks) * (count * side + GAP_PX) - GAP_PX
    height = LABEL_PX + len(prompts) * (side + LABEL_PX)
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for b, (name, images) in enumerate(blocks.items()):
        left = b * (count * side + GAP_PX)
        draw.text((left + 4, 3), name, fill="black", font=font)
        for i, image in enumerate(images):
            row, column = divmod(i, count)
            top = LABEL_PX + row * (side + LABEL_PX)
            if column == 0:
                draw.text((left + 4, top + 3), prompts[row], fill="#555555", font=font)
            tile = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side))
            canvas.paste(tile, (left + column * side, top + LABEL_PX))
    return canvas
