"""Whether what was added after the certificate holds the certified weights.

Graphs, plans and single files are read, never run.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from safediff.errors import SafediffError
from safediff.export.identity import verify_identity
from safediff.export.parts import (
    DECODER_FOLDER,
    TEXT_FOLDER,
    TEXT_PREFIX,
    VAE_PREFIX,
    decoder_state,
)
from safediff.export.plan_sidecar import read_sidecar
from safediff.export.plan_weights import prove_plan
from safediff.export.single_file_proof import verify_single_file
from safediff.release.engines import PLAN_KINDS, SINGLE_FILE_KIND
from safediff.release.layout import TEXT_LEVEL

Json = dict[str, Any]

_TEXT_WEIGHTS, _WEIGHTS = "model.safetensors", "diffusion_pytorch_model.safetensors"


def prove_engines(folder: Path, certificate: Json) -> Iterator[tuple[str, str]]:
    """Of every added engine what was found in it and, where it is not proved, why; one is empty.

    Args:
        folder: The release.
        certificate: One of its certificates; its added engines lie there with the hashes it says.
    """
    for row in certificate["engines"]:
        gated = f"gate {row['gate']}" if row["gate"] else "not gated"
        try:
            found = _prove(folder, row)
        except (SafediffError, OSError, KeyError) as error:
            yield "", f"{row['path']} does not hold the certified weights ({error})"
        else:
            yield f"{row['path']} in {row['precision']} holds {found}, {gated}", ""


def _prove(folder: Path, row: Json) -> str:
    """How much of the weights an engine or a single file holds.

    Raises:
        SafediffError: other ones, or too few.
    """
    path = folder / row["path"]
    if row["kind"] == SINGLE_FILE_KIND:
        verify_single_file(path, folder)
        return "the certified weights"
    state, prefix = certified_state(folder, row["part"])
    if row["kind"] in PLAN_KINDS:
        found = prove_plan(path, read_sidecar(path), state)
        return f"{found.found} of {found.of} weights"
    verify_identity(path, state, prefix)
    return "the certified weights"


def certified_state(folder: Path, part: str) -> tuple[Mapping[str, Tensor], str | None]:
    """The weights that a part's engine has to hold, and their prefix in its graph.

    Args:
        folder: The release.
        part: Folder of the engine's network: denoiser, text encoder or decoder.
    """
    if part == DECODER_FOLDER:
        return decoder_state(load_file(folder / "vae" / _WEIGHTS)), VAE_PREFIX
    if part.startswith(TEXT_FOLDER):
        return _without_level(load_file(folder / part / _TEXT_WEIGHTS)), TEXT_PREFIX
    return load_file(folder / part / _WEIGHTS), None


def _without_level(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Names as transformers 5 has them: only an encoder with a projection keeps the first level."""
    if any(name.startswith("text_projection.") for name in state):
        return state
    return {name.removeprefix(TEXT_LEVEL): tensor for name, tensor in state.items()}
