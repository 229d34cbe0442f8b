"""Grids of pictures: every row one prompt and seed, blurred until a person asks."""

import base64
from collections.abc import Sequence

from safediff.report.data import Grid, GridRow
from safediff.report.markup import Html, el


def pictures_section(grids: Sequence[Grid]) -> Html:
    """All grids; nothing where there are none."""
    if not grids:
        return Html("")
    caution = (
        "For reviewers: these pictures were generated to test whether unwanted content appears. "
        "They are blurred. Click a picture, or focus it and press Enter, to see it."
    )
    toggle = el("button", "Reveal all pictures", id="reveal", type="button", aria_pressed="false")
    return el(
        "section",
        el("h2", "Pictures"),
        el("div", el("p", caution), toggle, class_="caution"),
        *map(_grid, grids),
        id="pictures",
    )


def _grid(grid: Grid) -> Html:
    empty = el("p", "No picture belongs here.", class_="quiet")
    width = f"columns-{min(len(grid.columns), 4)}"
    rows = el("div", *(_row(grid.columns, row) for row in grid.rows), class_=f"grid {width}")
    return el(
        "section",
        el("h3", grid.title),
        el("p", grid.note, class_="quiet"),
        rows if grid.rows else empty,
        class_="pictures",
    )


def _row(columns: Sequence[str], row: GridRow) -> Html:
    caption, pictures = row
    return el(
        "figure",
        el("div", *map(_picture, columns, pictures, [caption] * len(columns)), class_="row"),
        el("figcaption", caption),
        class_="pair",
    )


def _picture(column: str, picture: bytes, caption: str) -> Html:
    source = "data:image/png;base64," + base64.b64encode(picture).decode()
    return el(
        "div",
        el(
            "button",
            el("img", src=source, alt=""),
            class_="veil",
            type="button",
            aria_pressed="false",
            aria_label=f"Reveal {column}: {caption}",
        ),
        el("span", column),
    )
