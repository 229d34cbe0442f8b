"""What lies beside a plan: ``<plan>.json`` says which weights, module and sizes it was made of.

A plan tells nothing of that without the GPU it was built for; the sidecar does, and is bound to it
by hash.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safediff.errors import Inconclusive, UsageError
from safediff.release.checksums import sha256_file

SIDECAR_SUFFIX = ".json"


def sidecar_path(plan: Path) -> Path:
    """Where the sidecar of a plan lies."""
    return plan.with_name(plan.name + SIDECAR_SUFFIX)


def write_plan(plan: Path, data: bytes, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write a plan and its sidecar; returns the sidecar's content, name, hash and size added."""
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_bytes(data)
    found = {
        **content,
        "path": plan.name,
        "sha256": sha256_file(plan),
        "size_bytes": len(data),
    }
    _write(plan, found)
    return found


def amend_sidecar(plan: Path, **more: Any) -> dict[str, Any]:
    """Say more of a plan that is there already; returns all that is said now."""
    found = read_sidecar(plan) | more
    _write(plan, found)
    return found


def _write(plan: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    sidecar_path(plan).write_text(text, encoding="utf-8")


def read_sidecar(plan: Path, sha256: str | None = None) -> dict[str, Any]:
    """The sidecar of a plan that is still the one it was written with; see ``read_plan``.

    Raises:
        UsageError: there is no plan or sidecar, or the plan was changed since.
    """
    try:
        content, found = _read(plan), sha256_file(plan)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_plan(plan, error) from error
    _require(plan, found, content, sha256)
    return content


def read_plan(plan: Path, sha256: str | None = None) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a plan, read once and then compared, and its sidecar.

    What is opened are these bytes: the file may be another one by the time it would be read again.

    Args:
        plan: The plan.
        sha256: What whoever checked it found it to be, by checksums or certificate; None: nobody
            did, so that the sidecar alone says.

    Raises:
        UsageError: there is no plan or sidecar, or the plan is another one.
    """
    try:
        content, data = _read(plan), plan.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_plan(plan, error) from error
    found = hashlib.sha256(data).hexdigest()
    _require(plan, found, content, sha256)
    return data, content


def made_for(sidecar: Mapping[str, Any]) -> str:
    """Which GPUs a plan runs on, in words: its target, or the GPU that built it."""
    gpu = (sidecar.get("built_on") or {}).get("gpu")
    return str(sidecar["target"] or gpu or "the one that built it")


def require_same_gpu(plan: Path, sidecar: Mapping[str, Any], here: str | None) -> None:
    """Refuse to run a native plan on another kind of GPU than it was built on.

    TensorRT-RTX decides itself what its plans run on. Sidecars of earlier versions do not say where
    they were built; then, and without a GPU, TensorRT decides.

    Args:
        plan: For the message.
        sidecar: Of it.
        here: Compute capability of this machine's GPU, such as ``SM90``; None: it has none.

    Raises:
        Inconclusive: the compute capability is another one.
    """
    there = sidecar.get("compute_capability")
    if sidecar["kind"] != "tensorrt" or None in (there, here) or there == here:
        return
    raise Inconclusive(
        f"{plan}: was built on {made_for(sidecar)} ({there}), here is {here}",
        "a plan fits one compute capability: build it again on this machine, or use the ONNX "
        "engine",
    )


def _read(plan: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(sidecar_path(plan).read_text(encoding="utf-8"))
    _ = content["sha256"]
    return content


def _no_plan(plan: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{plan}: is not a plan with its sidecar ({type(error).__name__})",
        "a plan is executable code: open none that safediff export did not write",
    )


def _require(plan: Path, found: str, sidecar: Mapping[str, Any], sha256: str | None) -> None:
    for says, expected in (
        ("its sidecar speaks of", sidecar["sha256"]),
        ("was checked as", sha256),
    ):
        if expected is not None and found != expected:
            raise UsageError(
                f"{plan}: is {found[:12]}, {says} {expected[:12]}",
                "a plan is executable code: build it again",
            )
