"""Texts that an adversary may write: searched from the vocabulary, or with vectors of their own.

Symbols: W token embeddings (V, d).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from safediff.models import clip_text
from safediff.models.backbone import Backbone, Condition
from safediff.policy.content import check_text

END_OF_WORD = "</w>"


def own_tokens_obstacle(backbone: Backbone) -> str | None:
    """Why the model cannot be asked with tokens of the adversary's own; None where it can."""
    if backbone.own_tokens:
        return None
    return "it searches tokens of a model with one text encoder, and that CLIP's"


@dataclass(frozen=True)
class Words:
    """What a search may choose from."""

    spelt: tuple[str, ...]
    ids: Tensor
    """Their tokens, (m,)."""
    embeddings: Tensor
    """Their rows of W, (m, d)."""

    def text(self, chosen: Tensor) -> str:
        """The chosen words (k,), as they are typed."""
        return " ".join(self.spelt[number] for number in chosen.tolist())


def searchable_words(backbone: Backbone) -> Words:
    """Whole words of plain letters that the tokenizer reads back as one token each.

    What is found can therefore be typed as a prompt. Words that the content rules refuse are left
    out; callers check the whole text as well, since some rules span several words.
    """
    tokenizer = backbone.tokenizer
    spelt = sorted(
        word
        for token in tokenizer.get_vocab()
        if token.endswith(END_OF_WORD)
        and (word := token.removesuffix(END_OF_WORD)).isascii()
        and word.isalpha()
        and check_text(word) is None
    )
    read: list[list[int]] = tokenizer(spelt, add_special_tokens=False)["input_ids"]
    whole = {word: ids[0] for word, ids in zip(spelt, read, strict=True) if len(ids) == 1}
    w = _embedding(backbone).weight.detach()
    ids = torch.tensor(list(whole.values()), device=w.device)
    return Words(tuple(whole), ids, w[ids])


def token_ids(backbone: Backbone, text: str) -> Tensor:
    """Tokens (1, window) of a text that fits, start, end and padding included."""
    ids = clip_text.token_ids(backbone.tokenizer, [text])
    return ids.to(_embedding(backbone).weight.device)


def room(backbone: Backbone, text: str) -> int:
    """Tokens that the text encoder's window has left beside the text; below 0 if none."""
    return backbone.num_tokens - len(backbone.tokenizer(text)["input_ids"])


def encode_own(backbone: Backbone, ids: Tensor, own: Tensor, vectors: Tensor) -> Condition:
    """E of tokens some of which have vectors of the adversary's own; differentiable by these.

    Args:
        backbone: Its text encoder is left as it was.
        ids: Tokens (n, window).
        own: Where the own ones stand, bool (n, window).
        vectors: In place of their rows of W, (number of own ones, d), row by row.
    """

    def put(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        mixed = output.clone()
        mixed[own] = vectors.to(output)
        return mixed

    hook = _embedding(backbone).register_forward_hook(put)
    try:
        return Condition(backbone.text_encoder(ids).last_hidden_state)
    finally:
        hook.remove()


def _embedding(backbone: Backbone) -> nn.Embedding:
    found = backbone.text_encoder.get_input_embeddings()
    assert isinstance(found, nn.Embedding)
    return found
