"""Which model is meant: embedded, a local one, or a pinned repository of the hub."""

import json
import re
from pathlib import Path

from safediff.policy.desk import Desk
from safediff.policy.plan import ModelPlan
from safediff.policy.problems import Loc, did_you_mean

EMBEDDED = "embedded"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LOC: Loc = ("model", "base")


def resolve_model(desk: Desk) -> ModelPlan:
    """Tell the kinds apart; local paths are found relative to the policy."""
    entry = desk.policy.model
    base = entry.base
    path = desk.folder / Path(base).expanduser()
    looks_local = base.startswith((".", "/", "~")) or base.endswith((".safetensors", ".ckpt"))
    if base != EMBEDDED and (looks_local or path.exists()):
        _check_local(desk, path)
        base = str(path.resolve())
    elif base != EMBEDDED and _HUB_ID.fullmatch(base):
        if entry.revision is None:
            message = f"'{base}' is a hub id, so revision must pin a commit (40 hex digits)"
            desk.source.refuse(_LOC, message)
    elif base != EMBEDDED:
        hint = did_you_mean(base, [EMBEDDED])
        message = f"'{base}' is not embedded, a path that exists, or a hub id (owner/name){hint}"
        desk.source.refuse(_LOC, message)
    elif entry.revision is not None:
        desk.source.refuse(("model", "revision"), "the embedded model has no revisions")
    return ModelPlan(
        base=base,
        revision=entry.revision,
        dtype=entry.dtype,
        scheduler=entry.scheduler,
        config=_config(desk),
        lora=_lora(desk),
        lora_scale=entry.lora.scale if entry.lora else 1.0,
    )


def _config(desk: Desk) -> str | None:
    given, loc = desk.policy.model.config, ("model", "config")
    if given is None:
        return None
    path = desk.folder / Path(given).expanduser()
    if not desk.policy.model.base.endswith(".safetensors"):
        desk.source.refuse(loc, "only a single-file checkpoint (.safetensors) needs a config")
    elif not (path / "model_index.json").exists():
        desk.source.refuse(loc, f"no diffusers folder (it has no model_index.json): {path}")
    return str(path.resolve())


def _lora(desk: Desk) -> str | None:
    given = desk.policy.model.lora
    if given is None:
        return None
    path, loc = desk.folder / Path(given.path).expanduser(), ("model", "lora", "path")
    if path.suffix != ".safetensors":
        desk.source.refuse(loc, f"'{given.path}' is no .safetensors file; others are never read")
    elif not path.is_file():
        desk.source.refuse(loc, f"no such file: {path}")
    return str(path.resolve())


def _check_local(desk: Desk, path: Path) -> None:
    entry = desk.policy.model
    if entry.revision is not None:
        desk.source.refuse(("model", "revision"), "only hub models have revisions")
    if entry.base.endswith(".ckpt"):
        desk.source.refuse(_LOC, "a .ckpt file is a pickle, which is never read; convert it")
    elif not path.exists():
        desk.source.refuse(_LOC, f"no such file or folder: {path}")
    elif fault := _fault(path):
        desk.source.refuse(_LOC, fault)


def _fault(path: Path) -> str | None:
    """Why a folder or file can't be a model; its weights are not read."""
    if path.is_dir():
        if (path / "model_index.json").exists():
            return None
        return f"no diffusers folder (it has no model_index.json): {path}"
    if path.suffix != ".safetensors":
        return f"neither a diffusers folder nor a .safetensors file: {path}"
    return None if _has_header(path) else f"not a readable .safetensors file: {path}"


def _has_header(path: Path) -> bool:
    """Whether it begins as the format says: eight bytes of length, then that much JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= path.stat().st_size - 8:
                return False
            return isinstance(json.loads(file.read(length)), dict)
    except (OSError, ValueError):
        return False
