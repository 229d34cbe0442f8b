"""Keys and values of cross-attention, and the token embeddings that they read.

W (out, d) is a key or value matrix of attn2, c (d,) one token of E(text), or of the projection of
E(text) that PixArt's layers read; rows are tokens.
Everything is float64: a second moment squares the condition number of its tokens.
"""

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from safediff.erase.closed_form.params import Matrices, Texts, Tokens
from safediff.erase.weights import is_joint
from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch, unet_sha256
from safediff.policy.plan import ConceptPlan

KEYS_AND_VALUES = (".attn2.to_k.weight", ".attn2.to_v.weight")
_ENDINGS: Mapping[Matrices, tuple[str, ...]] = {
    "kv": KEYS_AND_VALUES,
    "k": (".attn2.to_k.weight",),
    "v": (".attn2.to_v.weight",),
}
_CHUNK = 64
"""Texts that are encoded at a time; a long keep list need not fit into memory as a whole."""


def require_cross_attention(denoiser: nn.Module) -> None:
    """Refuse a denoiser whose keys and values of the text read more than the text.

    Raises:
        UsageError: it has joint attention.
    """
    if is_joint(denoiser):
        raise UsageError(
            "text and picture share one attention in this model (joint attention): past its first "
            "layer keys and values of the text read a stream that the picture went into, which no "
            "closed form knows",
            "choose an eraser that distils (sdd, esd-x)",
        )


def kv_weights(unet: nn.Module, matrices: Matrices = "kv") -> dict[str, Tensor]:
    """The matrices of every layer by parameter name, each (out, d) in float64.

    Raises:
        UsageError: the denoiser has no cross-attention.
    """
    require_cross_attention(unet)
    endings = _ENDINGS[matrices]
    found = {
        name: parameter.detach().double()
        for name, parameter in unet.named_parameters()
        if name.endswith(endings)
    }
    if not found:
        raise UsageError(
            "this UNet has no keys and values of cross-attention (attn2.to_k, attn2.to_v)",
            "choose an eraser that trains other weights",
        )
    return found


def kv_patch(backbone: Backbone, weights: Mapping[str, Tensor], method: str) -> Patch:
    """The changed matrices, in the types that the UNet stores them in."""
    stored = dict(backbone.denoiser.named_parameters())
    return Patch(
        tensors={name: w.to(stored[name].dtype).contiguous() for name, w in weights.items()},
        base_sha256=unet_sha256(backbone.denoiser),
        metadata={"method": method},
    )


def erased_texts(concepts: Sequence[ConceptPlan], texts: Texts) -> tuple[str, ...]:
    """What is erased: every concept's erase texts, or their phrasings, each once."""
    return tuple(
        dict.fromkeys(
            text
            for concept in concepts
            for text in (concept.erase if texts == "erase" else concept.phrasings)
        )
    )


def guided_texts(
    concepts: Sequence[ConceptPlan], texts: Texts, guide: str
) -> tuple[tuple[str, str], ...]:
    """What is erased, each with the text whose tokens stand for it.

    Of a phrasing that is what the policy has drawn instead (``erase.toward``), where it says so;
    of everything else it is ``guide``.
    """
    found = dict.fromkeys(erased_texts(concepts, texts), guide)
    if texts == "phrasings":
        found |= {text: own for concept in concepts for text, own in concept.spoken if own}
    return tuple(found.items())


def token_mask(backbone: Backbone, texts: Sequence[str], tokens: Tokens) -> Tensor:
    """Which positions of each text are read, (n, window), True where they are."""
    spelt, start = backbone.spelt_tokens(texts), backbone.num_start_tokens
    position = torch.arange(spelt.shape[1])
    last = (spelt.sum(1, keepdim=True) - 2).clamp(min=0)  # the end token is spelt too
    if tokens == "last":
        return position == last
    if tokens == "content":
        return (position >= start) & (position <= last)
    read = torch.ones_like(spelt) if backbone.reads_padding else spelt
    return (position >= (start if tokens == "after_start" else 0)) & read


def token_rows(backbone: Backbone, texts: Sequence[str], tokens: Tokens) -> Tensor:
    """The chosen tokens of all texts, in order, (num, d)."""
    return torch.cat(list(_row_chunks(backbone, texts, tokens)))


def token_moment(backbone: Backbone, texts: Sequence[str], tokens: Tokens) -> Tensor:
    """Sum of c c^T over the chosen tokens of all texts, (d, d)."""
    return functools.reduce(operator.add, (c.T @ c for c in _row_chunks(backbone, texts, tokens)))


def _row_chunks(backbone: Backbone, texts: Sequence[str], tokens: Tokens) -> Iterator[Tensor]:
    for start in range(0, len(texts), _CHUNK):
        part = texts[start : start + _CHUNK]
        hidden = backbone.key_states(backbone.encode(part))
        yield hidden[token_mask(backbone, part, tokens).to(hidden.device)].double()


class Pairs(NamedTuple):
    """Tokens and what stands for them."""

    erased: Tensor
    """c of the erased texts, (num, d)."""
    guides: Tensor
    """c_guide for each of them, (num, d)."""

    def own_moment(self) -> Tensor:
        """T = sum of c c^T, (d, d)."""
        return self.erased.T @ self.erased

    def guide_moment(self) -> Tensor:
        """A = sum of c_guide c^T, (d, d)."""
        return self.guides.T @ self.erased


def guided_pairs(
    backbone: Backbone, guided: Sequence[tuple[str, str]], tokens: Tokens = "all"
) -> Pairs:
    """The chosen tokens of texts, each given with its guide; rows of one guide stand together.

    Raises:
        UsageError: a text is longer than the encoder's window.
    """
    by_guide: dict[str, list[str]] = {}
    for text, guide in guided:
        by_guide.setdefault(guide, []).append(text)
    parts = [token_pairs(backbone, texts, guide, tokens) for guide, texts in by_guide.items()]
    return Pairs(*(torch.cat(rows) for rows in zip(*parts, strict=True)))


def token_pairs(backbone: Backbone, texts: Sequence[str], guide: str, tokens: Tokens) -> Pairs:
    """The chosen tokens of ``texts``, each with the guide's token at the same position.

    With ``last`` the guide's own last subject token stands for all: its position differs. Where
    padding is not read, the guide's end token stands for positions behind it.
    """
    erased = token_rows(backbone, texts, tokens)
    if tokens == "last":
        return Pairs(erased, token_rows(backbone, [guide], tokens).expand_as(erased))
    positions = token_mask(backbone, texts, tokens).nonzero()[:, 1].to(erased.device)
    guides = token_rows(backbone, [guide], "all")
    return Pairs(erased, guides[positions.clamp(max=len(guides) - 1)])
