"""Writes the release folder: a diffusers model with the modified denoiser, engine, evidence."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from safediff.errors import UsageError
from safediff.export.engine_files import DATA_NAME, MODEL_NAME
from safediff.export.identity import read_precision, verify_identity
from safediff.export.quiet import quiet
from safediff.folders import new_folder
from safediff.models.backbone import Backbone
from safediff.release.bom import BOM_NAME, bill_of_materials, dump_bom
from safediff.release.card import CARD_NAME, model_card
from safediff.release.certificate import (
    CERTIFICATE_NAME,
    Evidence,
    Json,
    dump_certificate,
    is_certified,
    issue_certificate,
)
from safediff.release.checksums import sha256_file, write_checksums
from safediff.release.gate_statement import STATEMENT_NAME, dump_statement, gate_statement

_FORMATS = {".safetensors": "safetensors", ".onnx": "onnx", ".data": "onnx-external-data"}
TEXT_LEVEL = "text_model."
ONE_FILE = "10000GB"
"""What the certificate says of the weights is checked against one file, however large."""
WITHOUT_LEVEL = (TEXT_LEVEL, "text_projection.")
_SAFETENSORS_PRECISIONS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


def write_release(
    folder: Path,
    backbone: Backbone,
    evidence: Evidence,
    *,
    engine: Path | None = None,
    extra_files: Mapping[str, Path] | None = None,
    more: Mapping[str, Evidence] | None = None,
) -> Json:
    """Write a release that ``DiffusionPipeline.from_pretrained`` loads.

    Order: model, engine, extra files, certificate over them, model card, bill of materials and
    gate statement from it, checksums of all; a signature comes later and covers those. The folder
    appears when all of it is there. An earlier release in its place is replaced.

    Args:
        folder: The release.
        backbone: Its ``denoiser`` is the PyTorch network with the weights that were verified.
        evidence: What was measured.
        engine: Engine folder that ``export_denoiser`` wrote from the same weights.
        extra_files: Further files by their path in the release (report, journal, patch).
        more: What was measured under further policies, by the path of its certificate.

    Returns:
        The certificate over ``evidence``.

    Raises:
        UsageError: ``folder`` is something else, or an extra file would fall outside it or
            replace a file of the model.
        Inconclusive: the engine holds other weights, or the folder can't be written.
    """
    with new_folder(folder, is_certified, "a release") as release:
        write_model(release, backbone)
        if engine is not None:
            verify_identity(engine / MODEL_NAME, backbone.denoiser.state_dict())
            for name in (MODEL_NAME, DATA_NAME):
                shutil.copyfile(engine / name, release / backbone.component / name)
        for name, source in (extra_files or {}).items():
            _copy_extra(release, name, source)
        subject = _subject(release)
        certificate = issue_certificate(evidence, subject)
        _write_evidence(release, certificate)
        for name, further in (more or {}).items():
            text = dump_certificate(issue_certificate(further, subject))
            (release / name).write_text(text, encoding="utf-8")
        write_checksums(release)
        make_readable(release)
    return certificate


def make_readable(folder: Path) -> None:
    """Let everybody read what is there, whatever the umask.

    safetensors makes files that only their owner can read, and copies keep the modes of what was
    copied. To be called when the last file is written.
    """
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _write_evidence(release: Path, certificate: Json) -> None:
    """The certificate, then everything that is derived from it, as whoever reads it finds it."""
    text = dump_certificate(certificate)
    (release / CERTIFICATE_NAME).write_text(text, encoding="utf-8")
    write_derived(release, json.loads(text))


def write_derived(release: Path, certificate: Json) -> None:
    """Model card, bill of materials and gate statement of a folder's own certificate."""
    texts = {
        CARD_NAME: model_card(certificate),
        BOM_NAME: dump_bom(bill_of_materials(certificate)),
    }
    if statement := gate_statement(certificate):
        texts[STATEMENT_NAME] = dump_statement(statement)
    for name, text in texts.items():
        (release / name).write_text(text, encoding="utf-8")


def write_model(release: Path, backbone: Backbone) -> None:
    """The diffusers folder, with the tokenizer files that older libraries read."""
    with quiet():
        new_pipeline: Any = getattr(diffusers, backbone.pipeline_name)
        pipeline = new_pipeline(**backbone.components())
        pipeline.save_pretrained(release, max_shard_size=ONE_FILE)
    for name, part in backbone.components().items():
        if isinstance(part, CLIPTokenizer):
            # transformers 5 writes tokenizer.json only; transformers 4 and optimum read these two
            part.backend_tokenizer.model.save(str(release / name))
        if isinstance(part, CLIPTextModel | CLIPTextModelWithProjection):
            _write_old_names(release / name / "model.safetensors")
    for path in release.rglob("*.json"):
        _forget_origin(path)


def _write_old_names(path: Path) -> None:
    """Name the text encoder's weights as transformers 4 does, which transformers 5 reads as well.

    Without their first level transformers 4 finds none of them and goes on with random weights.
    """
    state = {
        name if name.startswith(WITHOUT_LEVEL) else TEXT_LEVEL + name: tensor
        for name, tensor in load_file(path).items()
    }
    save_file(state, path, metadata={"format": "pt"})


def _forget_origin(path: Path) -> None:
    """Drop the paths that models were loaded from, which are nobody's business."""
    data = json.loads(path.read_text(encoding="utf-8"))
    kept = {k: v for k, v in data.items() if k not in ("_name_or_path", "name_or_path")}
    if kept != data:
        path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _copy_extra(release: Path, name: str, source: Path) -> None:
    target = release / name
    if not target.resolve().is_relative_to(release.resolve()) or target.exists():
        raise UsageError(f"{name}: not a free place in the release", "choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _subject(release: Path) -> list[Json]:
    paths = sorted(path for path in release.rglob("*") if path.suffix in _FORMATS)
    return [
        {
            "path": path.relative_to(release).as_posix(),
            "sha256": sha256_file(path),
            "size_bytes": path.stat().st_size,
            "format": _FORMATS[path.suffix],
            "precision": precision_of(path),
        }
        for path in paths
    ]


def precision_of(path: Path) -> str:
    """Of the weights in a file: safetensors, or an engine's graph or data."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            first = next(iter(file.keys()))
            dtype: str = file.get_slice(first).get_dtype()
        return _SAFETENSORS_PRECISIONS.get(dtype, dtype)
    return read_precision(path.with_name(MODEL_NAME))
