"""The files of a release against its certificate: by hash, and what was compiled by its weights.

Hashes are those of SHA256SUMS, which the files were just held against. A graph is read (never run)
only to compare its weights, after everything that hashes can decide.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from safediff.errors import Inconclusive, SafediffError, UsageError
from safediff.export.engine_files import DATA_NAME, MODEL_NAME
from safediff.export.identity import verify_identity
from safediff.export.manifest import gates_of, read_manifest
from safediff.export.parts import (
    DECODER_FOLDER,
    TEXT_FOLDER,
    VAE_PREFIX,
    decoder_state,
)
from safediff.export.plan_sidecar import SIDECAR_SUFFIX, read_sidecar
from safediff.export.plan_weights import prove_plan
from safediff.gate.verdict import Verdict
from safediff.release.certified_files import uncertified_weights
from safediff.release.engines import (
    ENGINES_FOLDER,
    PLAN_SUFFIX,
    added_plans,
    engine_problems,
    own_gate,
)
from safediff.release.proofs import certified_state
from safediff.release.weights import UNET_PATH, denoiser_folder

Json = dict[str, Any]
EngineChoice = str
"""``auto``, ``onnx``, ``torch``, or the path of a plan in the release."""

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
UNSIGNED = "no checked signature covers the gate report on it"
PASSED = {verdict.value for verdict in Verdict if verdict.exit_code == 0}
"""What a gate may say of an engine that is served: warnings and waived checks are no failure."""
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
    """Every file that the certificate speaks of is there, and no weights or plan but those.

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
    for problem in engine_problems(path, certificate, sums):
        raise UsageError(f"{path}: {problem}", NEXT_STEP)
    for problem in uncertified_weights(certificate, sums):
        raise UsageError(f"{path}: {problem}", NEXT_STEP)


def choose_engine(
    path: Path,
    certificates: Sequence[Json],
    sums: Mapping[str, str],
    wanted: EngineChoice,
    *,
    signed: bool,
    today: date,
) -> Choice:
    """The engine to open, from hashes and the manifest alone.

    Every certificate has to list its bytes, or its policy to have passed its gate on them.

    Whoever can renew the checksums can write a gate report into the manifest, so that of an engine
    that the certificate does not list counts under a signature only.

    Args:
        path: The folder.
        certificates: All of the release; none: nothing to compare with, so what is there is taken.
        sums: Hashes of the files.
        wanted: By the user. ``auto`` never takes an engine that something speaks against.
        signed: Whether a signature over all files was checked.
        today: UTC; a gate report counts through the last day of its waivers.

    Raises:
        UsageError: the engine is not there, or is none of this release.
    """
    if wanted.endswith(PLAN_SUFFIX):
        return _choose_plan(path, certificates, sums, wanted, signed=signed, today=today)
    files = engine_files(path)
    has_onnx = files[0] in sums
    if wanted == "onnx" and not has_onnx:
        raise UsageError(f"{path}: has no {files[0]}", "export it, or use --engine torch")
    if wanted == "torch" or not has_onnx:
        return Choice("torch")
    found = {name: sums.get(name) for name in files}
    silent = [c for c in certificates if not found.items() <= _listed(c).items()]
    if not silent:
        return Choice("onnx")
    what = f"{files[0]} is not the engine that the certificate speaks of"
    manifest = read_manifest(path)
    if manifest is None:
        raise UsageError(f"{path}: {what}", NEXT_STEP)
    gates = _own_gates(silent, manifest, *found.values())
    of = f" of policy {gates.never[0]}" if gates.never and len(certificates) > 1 else ""
    missing = gates.objection(f"no gate report on it{of} passed", signed, today)
    if not missing:
        return Choice("onnx", certified=False, last_day=gates.last_day)
    doubt = f"{what}, and {missing}"
    if wanted == "onnx":
        return Choice("onnx", certified=False, doubt=doubt)
    return Choice("torch", remark=f"{doubt}; serving the PyTorch weights, which it does speak of")


def _choose_plan(
    path: Path,
    certificates: Sequence[Json],
    sums: Mapping[str, str],
    wanted: str,
    *,
    signed: bool,
    today: date,
) -> Choice:
    """A plan that was asked for by its path in the release, or by where it lies."""
    name = wanted if wanted in sums else wanted.removeprefix(f"{path.as_posix()}/")
    known = [{row["path"] for row in added_plans(certificate)} for certificate in certificates]
    if not known or not all(name in names for names in known):
        raise UsageError(
            f"{path}: {wanted} is not a plan that its certificate speaks of",
            f"build one with safediff export --trt or --trt-rtx; they lie in {ENGINES_FOLDER}/",
        )
    hashes = sums[name], sums.get(f"{name}{SIDECAR_SUFFIX}")
    gates = _own_gates(certificates, read_manifest(path), *hashes)
    of = f" of policy {gates.never[0]}" if gates.never and len(certificates) > 1 else ""
    missing = gates.objection(f"it has not passed the gate{of} on a GPU", signed, today)
    plan = Choice("plan", certified=False, plan_file=name, plan_sha256=sums[name])
    if not missing:
        return plan._replace(last_day=gates.last_day)
    return plan._replace(doubt=f"{name}: {missing}")


def _listed(certificate: Json) -> dict[str, str]:
    return {row["path"]: row["sha256"] for row in certificate["subject"]}


class _Gates(NamedTuple):
    """What gate reports say of one engine."""

    never: list[str]
    """Policies without one that passed."""
    last_day: date | None
    """Of the first waiver to run out that the others rest on."""

    def objection(self, never: str, signed: bool, today: date) -> str:
        """Why they do not count; empty where they do. ``never`` is said where there is none."""
        if self.never:
            return never
        if self.last_day is not None and self.last_day < today:
            return f"a waiver of the gate report on it expired on {self.last_day}"
        return "" if signed else UNSIGNED


def _own_gates(
    certificates: Sequence[Json],
    manifest: Json | None,
    model_sha256: str | None,
    data_sha256: str | None,
) -> _Gates:
    """Of each certificate's policy, on these very bytes."""
    passed = [
        gate
        for row in (manifest["engines"] if manifest else ())
        if (row["sha256"], row["data_sha256"]) == (model_sha256, data_sha256)
        for gate in gates_of(row)
        if gate["bound_to"] == row["sha256"] and gate["verdict"] in PASSED
    ]
    own = [(str(c["policy"].get("name")), own_gate(c, passed)) for c in certificates]
    days = [day for _, gate in own if gate is not None for day in _waiver_days(gate)]
    return _Gates([name for name, gate in own if gate is None], min(days, default=None))


def _waiver_days(gate: Json) -> list[date]:
    """Last days of the waivers that a gate report rests on; its verdict only says ``warn``."""
    waived = [row for row in gate["results"] if row["verdict"] == Verdict.WAIVED.value]
    return [date.fromisoformat(row["details"]["waiver_expires"]) for row in waived]


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
