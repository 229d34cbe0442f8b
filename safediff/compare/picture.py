"""One picture of a comparison: rows are systems, columns the same prompts and seeds."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TITLE_PX = 176
HEAD_PX = 56
GAP_PX = 4
TILE_PX = 96
MAX_LINES, MARK = 3, " …"


def compose(titles: Sequence[str], prompts: Sequence[str], images: Sequence[Tensor]) -> Image.Image:
    """Tiles with the systems' titles on the left and the prompts above.

    Args:
        titles: One per row.
        prompts: One per column.
        images: Per row, uint8 (num_columns, 3, H, W).
    """
    step = TILE_PX + GAP_PX
    size = (TITLE_PX + len(prompts) * step, HEAD_PX + len(titles) * step)
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for column, prompt in enumerate(prompts):
        draw.multiline_text(
            (TITLE_PX + column * step, 4), _wrap(prompt, font), fill="#333333", font=font
        )
    for row, (title, tiles) in enumerate(zip(titles, images, strict=True)):
        top = HEAD_PX + row * step
        draw.text((4, top + TILE_PX // 2 - 8), title, fill="black", font=font)
        for column, tile in enumerate(tiles):
            canvas.paste(_tile(tile), (TITLE_PX + column * step, top))
    return canvas


def _tile(image: Tensor) -> Image.Image:
    picture = Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy())
    return picture.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """At most three lines of the width of a tile; what does not fit is cut with a mark."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= TILE_PX - GAP_PX or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < MAX_LINES:
            lines.append(word)
        else:
            while font.getlength(lines[-1] + MARK) > TILE_PX - GAP_PX and len(lines[-1]) > 1:
                lines[-1] = lines[-1][:-1].rstrip()
            lines[-1] += MARK
            break
    return "\n".join(lines)
