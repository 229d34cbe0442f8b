"""The files of a release against its certificate: by hash, and what was compiled by its weights.

Hashes are those of SHA256SUMS, which the files were just held against. A graph is read (never run)
only to compare its weights, after everything that hashes can decide.
"""

from collections.abc import Mapping
from datetime import date
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from safediff.errors import Inconclusive, SafediffError, UsageError
from safediff.export.engine_files import DATA_NAME, MODEL_NAME
from safediff.export.identity import verify_identity
from safediff.export.manifest import read_manifest
from safediff.export.parts import (
    DECODER_FOLDER,
    TEXT_FOLDER,
    VAE_PREFIX,
    decoder_state,
)
from safediff.export.plan_sidecar import read_sidecar
from safediff.export.plan_weights import prove_plan
from safediff.release.certified_files import foreign_graphs, uncertified_weights
from safediff.release.engines import PLAN_SUFFIX, engine_problems
from safediff.release.proofs import certified_state
from safediff.release.weights import UNET_PATH, denoiser_folder
from safediff.serve.gates import Known, gates_on
from safediff.serve.plans import FoundPlan, named_plan, plan_by_itself

Json = dict[str, Any]
EngineChoice = str
"""``auto``, ``onnx``, ``torch``, or the path of a plan in the release."""

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
NEXT_STEP = "do not deploy it; get the release again from where it was made"


class Choice(NamedTuple):
    """Which engine is opened."""

    engine: Literal["onnx", "torch", "plan"]
    certified: bool = True
    """Whether every certificate lists its very bytes."""
    remark: str = ""
    """Why it is another one than one might expect."""
    doubt: str = ""
    """What speaks against it."""
    plan_file: str = ""
    """Path of the plan."""
    plan_sha256: str = ""
    """Its hash by the checksums."""
    last_day: date | None = None
    """Of the first waiver to run out that its gate reports rest on, UTC."""


def engine_files(path: Path) -> tuple[str, str]:
    """What ``safediff export --full`` may write anew: another precision of the same weights."""
    folder = denoiser_folder(path).name
    return f"{folder}/{MODEL_NAME}", f"{folder}/{DATA_NAME}"


def require_certified(path: Path, certificate: Json, sums: Mapping[str, str]) -> None:
    """Every file that the certificate speaks of is there, and no weights, plan or graph but those.

    The denoiser's engine is left to ``choose_engine``.

    Raises:
        UsageError: a file differs, is missing, or is none of the release.
    """
    listed, engine = _listed(certificate), engine_files(path)
    for name, sha256 in listed.items():
        if name not in engine and sums.get(name) != sha256:
            raise UsageError(
                f"{path}: {name} is not the file that the certificate speaks of", NEXT_STEP
            )
    others = {name: sha256 for name, sha256 in sums.items() if name not in engine}
    problems = chain(
        engine_problems(path, certificate, sums),
        uncertified_weights(certificate, sums),
        foreign_graphs(certificate, others),
    )
    for problem in problems:
        raise UsageError(f"{path}: {problem}", NEXT_STEP)


def choose_engine(
    known: Known,
    wanted: EngineChoice,
    *,
    no_plan: str = "",
    unopened: Mapping[str, str] = MappingProxyType({}),
) -> Choice:
    """The engine to open, from hashes and the manifest alone.

    Every certificate has to list its bytes, or its policy to have passed its gate on them.

    Args:
        known: The release; without certificates what is there is taken.
        wanted: By the user. ``auto`` never takes an engine that something speaks against.
        no_plan: Why ``auto`` takes no plan; empty where it may.
        unopened: Why it does not take these plans, by path.

    Raises:
        UsageError: the engine is not there, or is none of this release.
    """
    if wanted.endswith(PLAN_SUFFIX):
        return _plan(named_plan(known, wanted))
    if wanted != "auto":
        return _choose(known, wanted)
    plan, passed_over = plan_by_itself(known, no_plan, unopened)
    choice = _choose(known, wanted) if plan is None else _plan(plan)
    return choice._replace(remark="; ".join(filter(None, (passed_over, choice.remark))))


def _choose(known: Known, wanted: EngineChoice) -> Choice:
    """ONNX or PyTorch."""
    path, sums, files = known.path, known.sums, engine_files(known.path)
    has_onnx = files[0] in sums
    if wanted == "onnx" and not has_onnx:
        raise UsageError(f"{path}: has no {files[0]}", "export it, or use --engine torch")
    if wanted == "torch" or not has_onnx:
        return Choice("torch")
    found = {name: sums.get(name) for name in files}
    silent = [c for c in known.certificates if not found.items() <= _listed(c).items()]
    if not silent:
        return Choice("onnx")
    what = f"{files[0]} is not the engine that the certificate speaks of"
    if read_manifest(path) is None:
        raise UsageError(f"{path}: {what}", NEXT_STEP)
    gates = gates_on(known, silent, *found.values())
    missing = gates.objection(known, "no gate report on it{of} passed")
    if not missing:
        return Choice("onnx", certified=False, last_day=gates.last_day)
    doubt = f"{what}, and {missing}"
    if wanted == "onnx":
        return Choice("onnx", certified=False, doubt=doubt)
    return Choice("torch", remark=f"{doubt}; serving the PyTorch weights, which it does speak of")


def _plan(found: FoundPlan) -> Choice:
    return Choice(
        "plan",
        certified=False,
        doubt=f"{found.name}: {found.objection}" if found.objection else "",
        plan_file=found.name,
        plan_sha256=found.sha256,
        last_day=found.last_day,
    )


def _listed(certificate: Json) -> dict[str, str]:
    return {row["path"]: row["sha256"] for row in certificate["subject"]}


def prove_compiled(path: Path, choice: Choice) -> None:
    """Every graph that will run and is not certified itself holds the certified weights.

    Cast to the graph's precision, name by name and byte by byte; of int8: quantised anew.

    Raises:
        UsageError: one holds other weights, or can't be read.
        Inconclusive: one is missing.
    """
    if choice.engine == "torch":
        return
    if choice.engine == "plan":
        plan = path / choice.plan_file
        sidecar = read_sidecar(plan, choice.plan_sha256)
        prove_plan(plan, sidecar, load_file(path / UNET_PATH))
    elif not choice.certified:
        folder = denoiser_folder(path)
        _prove(path, folder.name, load_file(folder / DIFFUSERS_WEIGHTS))
    if not is_compiled(path):
        return
    for encoder in text_folders(path):
        _prove(path, encoder.name, *certified_state(path, encoder.name))
    decoder = decoder_state(load_file(path / "vae" / DIFFUSERS_WEIGHTS))
    _prove(path, DECODER_FOLDER, decoder, VAE_PREFIX)


def is_compiled(path: Path) -> bool:
    """Whether text encoders and decoder are engines, too."""
    return (path / DECODER_FOLDER / MODEL_NAME).exists()


def text_folders(path: Path) -> list[Path]:
    """``text_encoder/``, and ``text_encoder_2/`` of SDXL."""
    return sorted(path.glob(f"{TEXT_FOLDER}*"))


def _prove(path: Path, folder: str, state: Mapping[str, Tensor], prefix: str | None = None) -> None:
    if not (path / folder / MODEL_NAME).exists():
        raise Inconclusive(f"{path / folder / MODEL_NAME}: no such engine", "export it first")
    try:
        verify_identity(path / folder / MODEL_NAME, state, prefix)
    except SafediffError as error:
        raise UsageError(
            f"{path}: {folder}/{MODEL_NAME} does not hold the weights that the certificate speaks "
            "of",
            "do not deploy it; export the folder again from the release",
        ) from error
