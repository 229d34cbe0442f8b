"""Pictures and captions for the embedded model, from openly licensed emoji in npm packages.

Noto (Apache-2.0), Twemoji (CC-BY 4.0) and Fluent 3D (MIT) are downloaded with ``npm`` at build
time and are never committed; the keywords come from ``emojilib`` (MIT).
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safediff.build.names import NAMES

PACKAGES = (
    "emoji-datasource-google@16.0.0",
    "emoji-datasource-twitter@16.0.0",
    "@lobehub/fluent-emoji-3d@1.1.0",
    "emojilib@4.0.3",
)
STYLES = ("noto", "twemoji", "fluent")
SIDE_PX = 64


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One emoji in one style."""

    name: str
    style: str
    keywords: tuple[str, ...]
    path: Path


def install_packages(folder: Path) -> Path:
    """Install the four npm packages under ``folder`` (once) and return ``node_modules``."""
    modules = folder / "node_modules"
    if not (modules / "emojilib").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES],
            check=True,
        )
    return modules


def pictures(modules: Path) -> list[Picture]:
    """All pictures, ordered by name, then style.

    Raises:
        FileNotFoundError: a package lacks one of the names.
    """
    return list(_pictures(modules))


def _pictures(modules: Path) -> Iterator[Picture]:
    entries = json.loads((modules / "emoji-datasource-google/emoji.json").read_text())
    by_short_name = {short: entry for entry in entries for short in entry["short_names"]}
    keywords = json.loads((modules / "emojilib/dist/emoji-en-US.json").read_text())
    for name, short_name in NAMES.items():
        entry = by_short_name[short_name]
        unified = entry["unified"].lower()
        symbol = "".join(chr(int(code, 16)) for code in unified.split("-"))
        words = keywords.get(symbol) or keywords[symbol.replace("\ufe0f", "")]
        paths = {
            "noto": [modules / "emoji-datasource-google/img/google/64" / entry["image"]],
            "twemoji": [modules / "emoji-datasource-twitter/img/twitter/64" / entry["image"]],
            "fluent": [
                modules / "@lobehub/fluent-emoji-3d/assets" / f"{code}.webp"
                for code in (unified, unified.replace("-fe0f", ""))
            ],
        }
        for style in STYLES:
            found = [path for path in paths[style] if path.exists()]
            if not found:
                raise FileNotFoundError(f"no {style} picture of {name!r} under {modules}")
            yield Picture(
                name=name,
                style=style,
                keywords=tuple(w.replace("_", " ") for w in words if w.isascii())[:8],
                path=found[0],
            )


def load_pixels(items: list[Picture]) -> Tensor:
    """Pixels on a white ground, uint8, shape (n, 3, 64, 64)."""
    stack = []
    for item in items:
        with Image.open(item.path) as source:
            rgba = source.convert("RGBA")
        if rgba.size != (SIDE_PX, SIDE_PX):
            rgba = rgba.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        ground = Image.new("RGBA", rgba.size, "white")
        stack.append(np.asarray(Image.alpha_composite(ground, rgba).convert("RGB")))
    return torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2).contiguous()


OTHER_CATEGORIES = ("Objects", "Food & Drink", "Animals & Nature", "Activities", "Travel & Places")
DEPICTS_A_NAME_TEXT = """
beers clinking_glasses sake tropical_drink mag_right hammer_and_pick hammer_and_wrench
lock_with_ink_pen closed_lock_with_key unlock old_key no_bell hearts earth_africa
earth_asia moon waxing_crescent_moon waning_crescent_moon star2 snowman oncoming_bus
minibus trolleybus oncoming_taxi oncoming_automobile blue_car bullettrain_side
green_apple tangerine baby_bottle linked_paperclips low_battery umbrella_with_rain_drops
umbrella_on_ground airplane sun_with_face airplane_departure airplane_arriving
hourglass_flowing_sand rain_cloud snow_cloud lightning orange_book blue_book closed_book
wilted_flower pig2 medal first_place_medal calling second_place_medal third_place_medal
softball camera_with_flash shamrock bottle_with_popping_cork knife_fork_plate
house_with_garden tulip watch fish brown_mushroom
"""
DEPICTS_A_NAME = frozenset(DEPICTS_A_NAME_TEXT.split())
"""Emoji that show one of the names (or nearly so): neither "none of these" nor a name."""


def other_pictures(modules: Path, *, held_out: bool) -> list[Picture]:
    """Emoji outside the vocabulary, for the judge's "none of these"; a quarter is held out."""
    entries = json.loads((modules / "emoji-datasource-google/emoji.json").read_text())
    taken = set(NAMES.values()) | DEPICTS_A_NAME
    found = []
    for entry in entries:
        short_names = set(entry["short_names"])
        if entry["category"] not in OTHER_CATEGORIES or short_names & taken:
            continue
        if entry["short_name"].startswith("clock"):
            continue
        digest = hashlib.sha256(entry["short_name"].encode()).digest()
        if (digest[0] < 64) != held_out:
            continue
        for style, vendor in (("noto", "google"), ("twemoji", "twitter")):
            path = modules / f"emoji-datasource-{vendor}/img/{vendor}/64" / entry["image"]
            if path.exists():
                found.append(Picture(name=entry["short_name"], style=style, keywords=(), path=path))
        path = modules / f"@lobehub/fluent-emoji-3d/assets/{entry['unified'].lower()}.webp"
        if path.exists():
            found.append(Picture(name=entry["short_name"], style="fluent", keywords=(), path=path))
    return found
