"""The two drawings of a comparison: erasure against retention, and the grid of pictures."""

import re
from xml.etree import ElementTree

import torch
from PIL import ImageFont

from safediff.compare.entry import Entry, Measured
from safediff.compare.picture import GAP_PX, HEAD_PX, TILE_PX, TITLE_PX, _wrap, compose
from safediff.compare.tradeoff import Mark, Plot, marks, tradeoff_plots, tradeoff_svg

CORNER = "its upper left corner, enlarged"


def mark(title: str, rate: float, ratio: float, own: bool = False) -> Mark:
    """With bounds a tenth away."""
    return Mark(
        title,
        Measured(estimate=rate, lower=None, upper=min(1.0, rate + 0.1), n=10),
        Measured(estimate=ratio, lower=max(0.0, ratio - 0.1), upper=None, n=10),
        own,
    )


def drawn(*shown: Mark) -> tuple[list[str], int]:
    """The texts of the drawing, and its number of dots."""
    svg = tradeoff_svg(shown, "all", "the rest", max_rate=0.05, min_ratio=0.9)
    tree = ElementTree.fromstring(svg)
    texts = [element.text or "" for element in tree.iter() if element.tag.endswith("}text")]
    return texts, len(re.findall("<circle", svg))


def test_a_crowded_corner_is_enlarged_and_every_system_named_once() -> None:
    far, near = mark("far", 0.9, 1.0), [mark("ours", 0.01, 0.97, own=True), mark("b", 0.1, 0.8)]
    texts, dots = drawn(far, *near)
    assert CORNER in texts
    assert dots == 5
    assert [texts.count(title) for title in ("far", "ours", "b")] == [1, 1, 1]


def test_a_corner_with_one_system_is_not_drawn_again() -> None:
    texts, dots = drawn(mark("far", 0.9, 1.0), mark("ours", 0.01, 0.97), mark("low", 0.0, 0.5))
    assert CORNER not in texts
    assert dots == 3
    assert {"far", "ours", "low"} <= set(texts)


def test_every_group_has_a_plot_of_its_own() -> None:
    near, far = [mark("a", 0.01, 0.95)], [mark("a", 0.01, 0.6), mark("b", 0.02, 0.9)]
    svg = tradeoff_plots([Plot("near", near, 0.9), Plot("far", far, 0.8)], "all", max_rate=0.05)
    tree = ElementTree.fromstring(svg)
    texts = [element.text or "" for element in tree.iter() if element.tag.endswith("}text")]
    for group in ("near", "far"):
        assert f"retention, {group} (whisker: lower bound)" in texts
    assert texts.count("a") == 2
    height = float(tree.attrib["viewBox"].split()[3])
    bottoms = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert max(bottoms) < height
    assert [y for y in bottoms if y > height / 2] != [y for y in bottoms if y <= height / 2]


def test_the_worst_of_several_erasure_bounds_is_drawn() -> None:
    def row(id: str, **rates: float | None) -> Entry:
        checks = {
            f"erasure/{name}": Measured(
                estimate=rate, lower=None, upper=None if rate is None else rate + 0.1, n=10
            )
            for name, rate in rates.items()
        }
        checks["retention/all"] = Measured(estimate=1.0, lower=0.9, upper=None, n=10)
        return Entry(
            **{"id": id, "title": id, "verdict": "pass", "hits": (), "passes_per_step": 2},
            **{"erase_seconds": 0.0, "erase_passes": 0, "checks": checks},
        )

    rows = [row("a", x=0.1, y=0.4), row("b", x=0.2, y=0.0), row("c", x=0.0, y=None)]
    found = marks(rows, ["erasure/x", "erasure/y"], "retention/all", "b")
    assert [(m.title, m.x.estimate, m.own) for m in found] == [("a", 0.4, False), ("b", 0.2, True)]


def test_prompts_above_the_grid_stay_within_their_tile() -> None:
    font = ImageFont.load_default(12)
    for prompt in ("axe", "a fluent style picture of a bow and arrow in the evening sun", "w" * 60):
        lines = _wrap(prompt, font).split("\n")
        assert len(lines) <= 3
        if " " in prompt:
            assert max(map(font.getlength, lines)) <= TILE_PX
    assert _wrap("a fluent style picture of a bow and arrow in the evening sun", font)[-1] == "…"
    assert _wrap("axe", font) == "axe"


def test_grid_holds_every_picture_at_its_place() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    grid = compose(["a", "b"], ["x", "y"], [red, red.flip(1)])
    step = TILE_PX + GAP_PX
    assert grid.size == (TITLE_PX + 2 * step, HEAD_PX + 2 * step)
    middle = TILE_PX // 2
    assert grid.getpixel((TITLE_PX + step + middle, HEAD_PX + middle)) == (255, 0, 0)
    assert grid.getpixel((TITLE_PX + middle, HEAD_PX + step + middle)) == (0, 0, 255)
