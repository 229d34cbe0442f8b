"""Texts as T5 reads them: no start token, the end token last, padding that may be masked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from safediff.errors import UsageError


def token_ids(tokenizer: Any, texts: Sequence[str], window: int) -> tuple[Tensor, Tensor]:
    """Tokens (b, window) and which of them are read, 1 or 0, likewise; on the CPU.

    Raises:
        UsageError: a text is longer than the window; the pipelines of diffusers would cut it.
    """
    found = tokenizer(list(texts), padding="max_length", max_length=window, truncation=False)
    for text, row in zip(texts, found["input_ids"], strict=True):
        if len(row) > window:
            raise UsageError(
                f"text has {len(row) - 1} tokens, the text encoder reads {window - 1}: "
                f"{text[:60]!r}",
                "shorten it or split the concept",
            )
    return torch.tensor(found["input_ids"]), torch.tensor(found["attention_mask"])
