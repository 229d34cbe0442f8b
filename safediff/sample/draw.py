"""What identifies a picture, and the seed that follows from it. Imports no torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """One picture to draw."""

    prompt: str
    index: int = 0
    """Which picture of this prompt; the seed is derived from prompt, index and the plan's seed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a data set fixes for one of its prompts; None: as for all others."""

    seed: int | None = None
    """Of the first picture; further ones count up."""
    guidance_scale: float | None = None


Rows = Mapping[str, Row]
"""By prompt."""
NO_ROWS: Rows = {}


def seed_of(draw: Draw, seed: int, rows: Rows = NO_ROWS) -> int:
    """A 63-bit seed from prompt, index and base seed; independent of batch and order.

    A prompt whose data set fixes a seed has that, plus the index.
    """
    own = rows.get(draw.prompt, Row()).seed
    if own is not None:
        return own + draw.index
    digest = hashlib.sha256(f"{seed}|{draw.index}|{draw.prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
