"""What lies beside a plan: ``<plan>.json`` says which weights, module and sizes it was made of.

A plan tells nothing of that without the GPU it was built for; the sidecar does, and is bound to it
by hash.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safediff.errors import UsageError
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


def read_sidecar(plan: Path) -> dict[str, Any]:
    """The sidecar of a plan that is still the one it was written with.

    Raises:
        UsageError: there is no plan or sidecar, or the plan was changed since.
    """
    try:
        content: dict[str, Any] = json.loads(sidecar_path(plan).read_text(encoding="utf-8"))
        expected = content["sha256"]
        found = sha256_file(plan)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{plan}: is not a plan with its sidecar ({type(error).__name__})",
            "a plan is executable code: open none that safediff export did not write",
        ) from error
    if found != expected:
        raise UsageError(
            f"{plan}: is {found[:12]}, its sidecar speaks of {expected[:12]}",
            "a plan is executable code: build it again",
        )
    return content
