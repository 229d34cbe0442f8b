"""The closed-form way back (RECE: Gong et al. 2024, arXiv:2407.12383) as an attack.

Every token of E(prompt) is replaced by the c' that the edited keys and values read as the original
ones read the token; see ``safediff.erase.closed_form.attack``.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from safediff.attack.base import TextAttack
from safediff.erase.closed_form.attack import closed_form_attack
from safediff.erase.closed_form.kv import kv_weights
from safediff.models.backbone import Condition

MIN_CHANGE = 1e-3
"""Relative; rounding to half precision alone changes weights by 3e-4."""


@dataclass(frozen=True, kw_only=True)
class ClosedForm(TextAttack):
    """Undoes what an edit of keys and values did to the text states."""

    reg: float
    """Weight of |c'|^2."""

    def obstacle(self) -> str | None:
        """The model's keys and values cannot be read, or are those of the base."""
        if self.models.base.text_path != "states":
            return "keys and values of this model do not read the text encoder's states themselves"
        if self._edited is None:
            return "keys and values of this model cannot be read"
        base, unedited = self._original, self._unedited
        if not any(is_edited(w, unedited[name], base[name]) for name, w in self._edited.items()):
            return "the model has the keys and values of the base, so there is no edit to undo"
        return None

    def condition(self, prompts: Sequence[str]) -> Condition:
        """Every token's c'."""
        assert self._edited is not None
        c = self.models.safe.encode(prompts)
        way_back = closed_form_attack(self._edited, self._original, c.hidden, self.reg)
        return replace(c, hidden=way_back)

    @functools.cached_property
    def _original(self) -> dict[str, Tensor]:
        return kv_weights(self.models.base.denoiser)

    @functools.cached_property
    def _edited(self) -> dict[str, Tensor] | None:
        unet = self.models.safe.denoiser
        if isinstance(unet, nn.Module):
            return kv_weights(unet)
        return engine_weights(unet, self._original)

    @functools.cached_property
    def _unedited(self) -> dict[str, Tensor]:
        """The base's matrices as the safe model would hold them."""
        from safediff.export.fake_int8 import rounded_weight

        rounded = int8_names(self.models.safe.denoiser)
        return {
            name: rounded_weight(w) if name in rounded else w for name, w in self._original.items()
        }


def is_edited(weight: Tensor, unedited: Tensor, original: Tensor) -> bool:
    """Whether a matrix holds more than the original rounded as it is, ``unedited``.

    Values near the middle between two steps may be rounded either way, after half precision.
    """
    change, rounding = (weight - unedited).norm(), (unedited - original).norm()
    return bool(change >= max(MIN_CHANGE * original.norm(), rounding / 2))


def int8_names(unet: object) -> set[str]:
    """Names of the weights that an engine holds in int8; none where ``unet`` is no engine."""
    import onnx_ir as ir

    from safediff.export.engine_files import MODEL_NAME
    from safediff.export.int8 import QUANTIZED
    from safediff.export.runtime import ExportedUNet
    from safediff.export.signature import UNET_PREFIX

    if not isinstance(unet, ExportedUNet):
        return set()
    stored = ir.load(unet.folder / MODEL_NAME).graph.initializers
    found = (n.removeprefix(UNET_PREFIX) for n in stored if n.endswith(QUANTIZED))
    return {name.removesuffix(QUANTIZED) for name in found}


def engine_weights(unet: object, original: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Weights that an engine computes with, by the names of the originals and where those lie.

    In float64, as they come from the file.

    None where ``unet`` is no engine, or does not hold all of them.
    """
    import onnx_ir as ir

    from safediff.export.engine_files import MODEL_NAME
    from safediff.export.int8 import read_weight
    from safediff.export.runtime import ExportedUNet

    if not isinstance(unet, ExportedUNet):
        return None
    model = ir.load(unet.folder / MODEL_NAME)
    found = {name: read_weight(model, name) for name in original}
    tensors = {
        name: torch.tensor(w, device=original[name].device)
        for name, w in found.items()
        if w is not None
    }
    return tensors if tensors.keys() == found.keys() else None
