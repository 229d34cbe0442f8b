"""Knobs of the closed-form erasers, and their presets; the defaults are the published settings.

UCE: Gandikota et al. 2023, arXiv:2308.14761. RECE: Gong et al. 2024, arXiv:2407.12383.
SPEED: Li et al. 2025, arXiv:2503.07392. ``safediff`` is ours: it edits every phrasing and every
token, since a causal text encoder tells each token behind the subject what the subject was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from safediff.erase.knobs import Bounds

Texts = Literal["erase", "phrasings"]
"""erase: the erase texts as they stand; phrasings: each in every phrasing of the policy."""
Tokens = Literal["last", "content", "after_start", "all"]
"""last: the last token of the subject (of the empty text: the start token); content: every token
between start and end; after_start: all but the start token, paddings included; all: every one."""
Matrices = Literal["kv", "k", "v"]

Positive = Annotated[float, Bounds(above=0)]
NotNegative = Annotated[float, Bounds(at_least=0)]
AtLeastOne = Annotated[int, Bounds(at_least=1)]


@dataclass(frozen=True, kw_only=True)
class UceParams:
    """Settings of UCE; symbols as in ``safediff.erase.closed_form.uce``."""

    texts: Texts = "erase"
    """Which texts of a concept are moved."""
    tokens: Tokens = "last"
    """Which tokens of erased and kept texts the edit reads."""
    matrices: Matrices = "kv"
    """Which matrices of cross-attention change."""
    guide: str = ""
    """The text whose keys and values erased texts get, but for phrasings that the policy has drawn
    as another text (``erase.toward``): these get that one's."""
    erase_scale: Positive = 1.0
    """a, weight of an erased token."""
    keep_scale: NotNegative = 1.0
    """b, weight of a kept token."""
    ridge: Positive = 0.5
    """lambda, weight of the distance to the base weights."""


@dataclass(frozen=True, kw_only=True)
class ReceParams(UceParams):
    """Settings of RECE: those of the UCE edit that it starts from, and of the repeated ones."""

    num_epochs: AtLeastOne = 3
    """How often the way back to the concept is found and closed."""
    reg: Positive = 0.1
    """Weight of |c'|^2 when the way back c' is found."""
    repeat_guide: str = " "
    """The text whose keys and values c' gets, but for phrasings with one of their own."""
    repeat_tokens: Tokens = "all"
    """Which tokens of c' and of preserved texts a repeated edit reads."""
    repeat_erase_scale: Positive = 1.0
    """a of a repeated edit."""
    repeat_keep_scale: NotNegative = 0.1
    """b of a repeated edit."""
    repeat_ridge: Positive = 0.1
    """lambda of a repeated edit."""
    repeat_keep: Literal["guide", "keep"] = "guide"
    """What a repeated edit preserves: its guide text, once per erased text, or the kept texts."""


@dataclass(frozen=True, kw_only=True)
class SpeedParams:
    """Settings of SPEED; symbols as in ``safediff.erase.closed_form.speed``."""

    texts: Texts = "erase"
    """Which texts of a concept are moved."""
    tokens: Tokens = "last"
    """Which tokens of erased and kept texts the edit reads."""
    matrices: Matrices = "v"
    """Which matrices of cross-attention change."""
    anchor: str = ""
    """The text whose keys and values erased texts get, but for phrasings with one of their own."""
    ridge: Positive = 1.0
    """r, weight of the size of the change."""
    pin_slack: NotNegative = 0.0
    """lambda: 0 pins the empty prompt exactly, more lets it move."""
    num_centres: Annotated[int, Bounds(at_least=1, below=77)] = 3
    """Centres (k-means) of the empty prompt's other 76 tokens, pinned with its start token."""
    retain: Literal["keep", "null"] = "keep"
    """The retain set: the kept texts, or the empty prompt's tokens after the start."""
    threshold: Positive = 0.1
    """Directions in which a retained token has less energy than this are free to change."""
    influence_filter: bool = True
    """Retain only tokens on which an unconstrained edit has at least its mean influence."""
    num_augment: Annotated[int, Bounds(at_least=0)] = 10
    """Perturbed copies of every retained token."""
    num_directions: AtLeastOne = 1
    """Directions of a copy's noise: those that the matrix passes on the least."""
    seed: Annotated[int, Bounds(at_least=0, below=2**63)] = 0
    """Of k-means and of the noise; a policy that leaves it out has its ``erase.seed``."""


UCE_PRESETS: Mapping[str, UceParams] = {
    "paper": UceParams(),
    "style": UceParams(guide="art"),
    "safediff": UceParams(texts="phrasings", tokens="all", erase_scale=10.0),
}

RECE_PRESETS: Mapping[str, ReceParams] = {
    "nudity": ReceParams(),
    "i2p": ReceParams(num_epochs=2),
    "hard": ReceParams(num_epochs=1, reg=1e-3),
    "easy": ReceParams(num_epochs=1),
    "safediff": ReceParams(
        texts="phrasings",
        tokens="all",
        erase_scale=10.0,
        num_epochs=1,
        repeat_ridge=3e4,  # many texts span every direction: a weak tie would erase everything
    ),
}
"""hard: styles, and objects that UCE alone leaves visible; easy: objects that it removes."""

SPEED_PRESETS: Mapping[str, SpeedParams] = {
    "paper": SpeedParams(),
    "nudity": SpeedParams(ridge=0.7, pin_slack=0.5, tokens="after_start", retain="null"),
    "safediff": SpeedParams(
        texts="phrasings",
        tokens="after_start",
        matrices="kv",
        influence_filter=False,
        num_augment=0,
    ),
}
