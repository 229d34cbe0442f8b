"""Texts as CLIP reads them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from safediff.errors import UsageError

MAX_BATCH = 64
"""Texts that an encoder reads at a time."""
Kept = TypeVar("Kept")


def token_ids(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Tokens (b, window), start, end and padding included, on the CPU.

    Raises:
        UsageError: a text is longer than the window; CLIP would cut it silently.
    """
    rows = tokenizer(list(texts), padding="max_length", truncation=False)["input_ids"]
    window = tokenizer.model_max_length
    for text, row in zip(texts, rows, strict=True):
        if len(row) > window:
            raise UsageError(
                f"text has {len(row) - 2} tokens, the text encoder reads {window - 2}: "
                f"{text[:60]!r}",
                "shorten it or split the concept",
            )
    return torch.tensor(rows)


def read_layers(
    tokenizer: Any, encoder: Any, texts: Sequence[str], kept: Callable[[Any], Kept]
) -> list[Kept]:
    """What ``kept`` takes of an encoder's outputs, batch by batch; one batch's layers live at once.

    Raises:
        UsageError: see ``token_ids``.
    """
    parts = token_ids(tokenizer, texts).to(encoder.device).split(MAX_BATCH)
    return [kept(encoder(part, output_hidden_states=True)) for part in parts]


def inner(output: Any) -> Tensor:
    """States before the last layer, (b, tokens, dim)."""
    states: Tensor = output.hidden_states[-2]
    return states
