"""Single-file checkpoints in the original layout: what the header says; no weights are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from safediff.errors import Inconclusive

Shapes = Mapping[str, tuple[int, ...]]
"""Of every tensor, by name."""
Kind = Literal["sd", "sd2", "sdxl", "refiner", "sd3", "flux"]
DENOISER = "model.diffusion_model."
CONV_IN = DENOISER + "input_blocks.0.0.weight"
CONV_OUT = DENOISER + "out.2.weight"
CROSS_KEYS = ".attn2.to_k.weight"
VELOCITIES = "v_pred"
"""Of files of SDXL: the name of an empty tensor, where velocities are predicted."""
ZERO_SNR = "ztsnr"
"""Likewise, where the last step of the training is pure noise."""
EDM = ("edm_mean", "edm_vpred.sigma_max")
"""Likewise, where noise has the levels of EDM (Karras et al. 2022, arXiv:2206.00364)."""
ENCODER_2, REFINER = "conditioner.embedders.1.", "conditioner.embedders.0.model."
OPEN_CLIP = "cond_stage_model.model."
_ENCODERS: tuple[tuple[str, Kind], ...] = (
    (ENCODER_2, "sdxl"),
    (REFINER, "refiner"),
    (OPEN_CLIP, "sd2"),
)
"""How names of text encoders begin; the first that is there tells."""
_TRANSFORMERS: Mapping[str, Kind] = {"double_blocks.": "flux", "joint_blocks.": "sd3"}
"""How names of other denoisers begin, which come with or without text encoders."""


def read_shapes(path: Path) -> Shapes:
    """The header of a ``.safetensors`` file.

    Raises:
        Inconclusive: the file cannot be read, or is cut off.
    """
    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise Inconclusive(
            f"{path}: cannot be loaded ({error})", "check that the file is whole"
        ) from error


def kind_of(shapes: Shapes) -> Kind:
    """By its denoiser and text encoders; ``sd`` where there is none of another family's."""
    bare = [name.removeprefix(DENOISER) for name in shapes]
    for start, kind in _TRANSFORMERS.items():
        if any(name.startswith(start) for name in bare):
            return kind
    found = (kind for start, kind in _ENCODERS if any(name.startswith(start) for name in shapes))
    return next(found, "sd")


def channels_of(shapes: Shapes) -> tuple[int, int]:
    """Channels that the UNet reads and answers with; four where it is not there."""
    reads = shapes[CONV_IN][1] if CONV_IN in shapes else 4
    answers = shapes[CONV_OUT][0] if CONV_OUT in shapes else 4
    return reads, answers


def unet_form(shapes: Shapes) -> tuple[int, int, int] | None:
    """Width of the UNet, width of the texts that it reads, and how many layers read them.

    None where there is no such UNet.
    """
    cross = [shape for name, shape in shapes.items() if name.endswith(CROSS_KEYS)]
    if CONV_IN not in shapes or not cross:
        return None
    return shapes[CONV_IN][0], cross[0][1], len(cross)
