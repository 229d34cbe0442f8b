"""A tiny release and its export: real files, no training, seconds."""

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from release_examples import make_evidence
from session_folder import made_once
from tiny import (
    Form,
    form_of,
    perturb,
    tiny_engine_of,
    tiny_pipeline,
    tiny_unet,
    tiny_v_pipeline,
    tiny_xl_pipeline,
    unet_of,
)

from safediff.models.load import as_backbone
from safediff.models.patch import unet_sha256
from safediff.models.stable_diffusion import StableDiffusion
from safediff.release.certificate import CERTIFICATE_NAME, dump_certificate
from safediff.release.checksums import sha256_file, write_checksums
from safediff.release.layout import write_release
from safediff.workflow.deploy import deploy_run

BASE_SEED = 7
"""Of the base UNet; the erased one has seed 0, so that the two differ everywhere."""


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="safediff-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


PIPELINES: Mapping[Form, Callable[[Path], Any]] = {
    "sd": tiny_pipeline,
    "sd-v": tiny_v_pipeline,
    "sdxl": tiny_xl_pipeline,
}


@functools.cache
def base_folder(form: Form = "sd") -> Path:
    """The base model as diffusers writes it; do not write to it."""
    words = folder() / f"base-tokenizer-{form}"

    def make(path: Path) -> None:
        pipeline = PIPELINES[form](words)
        pipeline.unet = perturb(unet_of(form), BASE_SEED)
        pipeline.save_pretrained(path)

    return made_once(f"base-{form}", make)


def resolved_plan(form: Form = "sd", **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "model": {"base": str(base_folder(form)), "revision": None, "dtype": "float32"},
        "concepts": [{"name": "axe", "phrasings": ["an axe", "axe", "a big axe"]}],
        "erase": {"keep": ["an owl", "a rose"]},
        "guard": None,
        **changes,
    }


def write_half(path: Path, **plan: Any) -> Path:
    """A release of a model that was verified in bfloat16; without an engine."""
    model = {"base": str(base_folder()), "revision": None, "dtype": "bfloat16"}
    evidence = make_evidence()
    unet = unet_sha256(tiny_unet(seed=BASE_SEED).to(torch.bfloat16))
    changes: dict[str, Any] = {
        "policy": evidence.policy | {"resolved": resolved_plan(model=model, **plan)},
        "base_model": evidence.base_model | {"sha256": {"unet": unet}},
    }
    pipeline = tiny_pipeline(folder() / "tokenizer-half").to(torch.bfloat16)
    backbone = StableDiffusion.from_pipeline("tiny", pipeline)
    write_release(path, backbone, make_evidence(**changes))
    return path


def write_example(path: Path, *, passed: bool = True, form: Form = "sd", **plan: Any) -> Path:
    """A release whose certificate says that the policy was met, or could not be decided."""
    evidence = make_evidence()
    unet = unet_sha256(perturb(unet_of(form), BASE_SEED))
    changes: dict[str, Any] = {
        "policy": evidence.policy | {"resolved": resolved_plan(form, **plan)},
        "base_model": evidence.base_model | {"sha256": {"unet": unet}},
    }
    if not passed:  # the engine was compared, but nobody gated it
        changes["reports"] = evidence.reports[:1]
    backbone = as_backbone("tiny", PIPELINES[form](folder() / f"tokenizer-{form}"))
    write_release(path, backbone, make_evidence(**changes), engine=tiny_engine_of(form))
    return path


def release(xl: bool = False) -> Path:
    """``release_of`` SD 1.x, or base SDXL."""
    return release_of(form_of(xl))


def exported(precision: str = "fp32", xl: bool = False) -> Path:
    """``exported_of`` SD 1.x, or base SDXL."""
    return exported_of(form_of(xl), precision)


@functools.cache
def release_of(form: Form) -> Path:
    """Do not write to it."""
    return made_once(f"release-{form}", lambda path: write_example(path, form=form))


@functools.cache
def exported_of(form: Form, precision: str = "fp32") -> Path:
    """The release with all parts as engines; do not write to it."""
    source = release_of(form)
    layouts = ("triton",) if form == "sd-v" else ("triton", "single-file")

    def make(path: Path) -> None:
        deploy_run(source, path, precision, 18, layouts)  # type: ignore[arg-type]

    return made_once(f"exported-{form}-{precision}", make)


def passed_gate(row: dict[str, Any], policy: str = "demo-weapons") -> dict[str, Any]:
    """What the manifest holds of a gate on an engine, made up."""
    named = {"policy_name": policy, "policy_sha256": make_evidence().policy["sha256"]}
    return {"verdict": "pass", "results": [], "bound_to": row["sha256"], **named}


def recertified(path: Path) -> Path:
    """Entries of engines and checksums renewed: what a careful forger does."""
    file = path / CERTIFICATE_NAME
    certificate = json.loads(file.read_text())
    for row in certificate["engines"]:
        row["sha256"] = sha256_file(path / row["path"])
        row["files"] = {name: sha256_file(path / name) for name in row["files"]}
    file.write_text(dump_certificate(certificate))
    write_checksums(path)
    return path


def copy_of(source: Path, path: Path) -> Path:
    """One that may be changed."""
    shutil.copytree(source, path)
    return path
