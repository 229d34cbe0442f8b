"""safediff-export.json: which engines a folder holds and what was measured of each.

Beside the certificate, which speaks of the files that were gated when the release was made, the
manifest speaks of engines that were added later. Its hash is in SHA256SUMS. An engine's ``gate`` is
the report of the policy that was measured on it; of a release that combines policies, those of
further ones are its ``more_gates``.
"""

import json
from pathlib import Path
from typing import Any

from safediff.errors import UsageError

Json = dict[str, Any]

MANIFEST_NAME = "safediff-export.json"
SCHEMA = "safediff-export/1"


def write_manifest(folder: Path, manifest: Json) -> None:
    """Write it with sorted keys; numbers must be finite."""
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Json | None:
    """The manifest of a folder, None where there is none.

    Raises:
        UsageError: it is no manifest of this form.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA or not isinstance(manifest["engines"], list):
            raise ValueError(f"schema {manifest['schema']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: not a manifest of this version ({error})", "export the release again"
        ) from error
    found: Json = manifest
    return found


def gates_of(row: Json) -> list[Json]:
    """The gate reports of an engine's entry: at most one of each policy."""
    return [gate for gate in (row["gate"], *row.get("more_gates", ())) if gate is not None]


def is_exported(folder: Path) -> bool:
    """Whether a folder was written by ``safediff export``."""
    try:
        return read_manifest(folder) is not None
    except UsageError:
        return False
