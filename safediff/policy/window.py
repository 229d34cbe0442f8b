"""How much of a text its encoder reads, estimated where no tokenizer is at hand."""

import math

MAX_TOKENS = 75
"""Content tokens of a CLIP text encoder; longer texts are cut without a word."""
TOKENS_PER_WORD = 1.5
"""An estimate."""


def estimated_tokens(text: str) -> int:
    """About how many content tokens a text has."""
    return math.ceil(len(text.split()) * TOKENS_PER_WORD)
