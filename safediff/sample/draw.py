"""What identifies a picture, and the seed that follows from it. Imports no torch."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """One picture to draw."""

    prompt: str
    index: int = 0
    """Which picture of this prompt; the seed is derived from prompt, index and the plan's seed."""


def seed_of(draw: Draw, seed: int) -> int:
    """A 63-bit seed from prompt, index and base seed; independent of batch and order."""
    digest = hashlib.sha256(f"{seed}|{draw.index}|{draw.prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
