"""A tiny release and its export: real files, no training, seconds."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from release_examples import make_evidence
from session_folder import made_once
from tiny import (
    tiny_backbone,
    tiny_engine,
    tiny_pipeline,
    tiny_unet,
    tiny_xl_backbone,
    tiny_xl_pipeline,
)

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


@functools.cache
def base_folder(xl: bool = False) -> Path:
    """The base model as diffusers writes it; do not write to it."""
    words = folder() / f"base-tokenizer-{xl}"

    def make(path: Path) -> None:
        pipeline = tiny_xl_pipeline(words) if xl else tiny_pipeline(words)
        pipeline.unet = tiny_unet(xl, seed=BASE_SEED)
        pipeline.save_pretrained(path)

    return made_once(f"base-{xl}", make)


def resolved_plan(xl: bool = False, **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "model": {"base": str(base_folder(xl)), "revision": None, "dtype": "float32"},
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


def write_example(path: Path, *, passed: bool = True, xl: bool = False, **plan: Any) -> Path:
    """A release whose certificate says that the policy was met, or could not be decided."""
    evidence = make_evidence()
    unet = unet_sha256(tiny_unet(xl, seed=BASE_SEED))
    changes: dict[str, Any] = {
        "policy": evidence.policy | {"resolved": resolved_plan(xl, **plan)},
        "base_model": evidence.base_model | {"sha256": {"unet": unet}},
    }
    if not passed:  # the engine was compared, but nobody gated it
        changes["reports"] = evidence.reports[:1]
    words = folder() / f"tokenizer-{xl}"
    backbone = tiny_xl_backbone(words) if xl else tiny_backbone(words)
    write_release(path, backbone, make_evidence(**changes), engine=tiny_engine(xl))
    return path


@functools.cache
def release(xl: bool = False) -> Path:
    """Do not write to it."""
    return made_once(f"release-{xl}", lambda path: write_example(path, xl=xl))


@functools.cache
def exported(precision: str = "fp32", xl: bool = False) -> Path:
    """The release with all parts as engines; do not write to it."""
    source = release(xl)

    def make(path: Path) -> None:
        deploy_run(source, path, precision, 18, ("triton", "single-file"))  # type: ignore[arg-type]

    return made_once(f"exported-{precision}-{xl}", make)


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
