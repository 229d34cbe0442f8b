"""The hash of what a model draws with beside its denoiser.

Text encoders, tokenizers, autoencoder and scheduler change pictures as much as the network does.
Settings at their defaults are left out, so that a library that adds one changes no hash.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from torch import nn

from safediff.models.backbone import Backbone
from safediff.models.patch import state_sha256
from safediff.models.schedulers import settings

PARTS = "parts"
"""What the hash is called beside those of denoisers."""
_OF_FILES = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})
"""They stand in a configuration and change no picture; types of weights are hashed with them."""


def part_sha256(part: Any) -> str:
    """Hash of one component of a pipeline: its weights, if any, and how it is set."""
    return hashlib.sha256(_canonical(_facts(part)).encode()).hexdigest()


def parts_sha256(backbone: Backbone, sha256_of: Callable[[Any], str] = part_sha256) -> str:
    """Hash of all components but the denoiser.

    ``sha256_of`` may remember: models of one base have the same text encoders, which are large.
    """
    found = {name: sha256_of(part) for name, part in backbone.beside_denoiser().items()}
    return hashlib.sha256(_canonical(found).encode()).hexdigest()


def _facts(part: Any) -> Any:
    if part is None or isinstance(part, bool):
        return part
    facts: dict[str, Any] = {"class": type(part).__name__}
    if hasattr(part, "model_max_length"):
        return facts | _tokenizer(part)
    if isinstance(part, nn.Module):
        facts["weights"] = state_sha256(part.state_dict())
    own = part.config.to_diff_dict() if hasattr(part.config, "to_diff_dict") else settings(part)
    read = {k: v for k, v in own.items() if k not in _OF_FILES and not k.startswith("_")}
    return facts | {"settings": read}


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Its words and rules; how it cut and padded the last texts is no setting."""
    if hasattr(tokenizer, "backend_tokenizer"):
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules |= {"truncation": None, "padding": None}
    else:
        rules = tokenizer.get_vocab()
    names = ("model_max_length", "padding_side", "truncation_side", "pad_token_id")
    return {"rules": rules, **{name: getattr(tokenizer, name) for name in names}}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
