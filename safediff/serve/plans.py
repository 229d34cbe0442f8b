"""Which TensorRT plan of a release is opened: the one that was named, or one that may be by itself.

A plan is native code, and what it computes can be told only by running it. So it is taken unnamed
only where a checked signature covers its gate report, all of the certified weights lie in it, and
this machine is the kind that it was built for.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from safediff.errors import UsageError
from safediff.export.built_on import compute_capability
from safediff.export.plan_sidecar import SIDECAR_SUFFIX, sidecar_path
from safediff.export.to_tensorrt import load_module
from safediff.release.engines import ENGINES_FOLDER, added_plans
from safediff.serve.gates import PASSED, Known, gates_on

Json = dict[str, Any]


class FoundPlan(NamedTuple):
    """A plan that every certificate speaks of."""

    name: str
    """Its path in the release."""
    sha256: str
    objection: str
    """Why it is not served without a reason; empty where it is."""
    last_day: date | None
    """Of the first waiver to run out that its gate reports rest on, UTC."""


def named_plan(known: Known, wanted: str) -> FoundPlan:
    """A plan that was asked for by its path in the release, or by where it lies.

    Raises:
        UsageError: it is none that every certificate speaks of.
    """
    own = wanted.removeprefix(f"{known.path.as_posix()}/")
    name = wanted if wanted in known.sums else own
    if name not in _names(known):
        raise UsageError(
            f"{known.path}: {wanted} is not a plan that its certificate speaks of",
            f"build one with safediff export --trt or --trt-rtx; they lie in {ENGINES_FOLDER}/",
        )
    sha256, sidecar = known.sums[name], known.sums.get(f"{name}{SIDECAR_SUFFIX}")
    gates = gates_on(known, known.certificates, sha256, sidecar)
    objection = gates.objection(known, "it has not passed the gate{of} on a GPU")
    return FoundPlan(name, sha256, objection, None if objection else gates.last_day)


def plan_by_itself(
    known: Known, ruled_out: str, unopened: Mapping[str, str]
) -> tuple[FoundPlan | None, str]:
    """The first plan by name that may be opened unnamed, and why those before it may not.

    Args:
        known: The release.
        ruled_out: Why none may be; empty where nothing speaks against it.
        unopened: Why these may not, by path.

    Returns:
        The plan, if there is one, and one line; empty where none was passed over.
    """
    said: list[str] = []
    for name in _names(known):
        found, rows = named_plan(known, name), _rows(known, name)
        why = ruled_out or unopened.get(name, "") or found.objection
        why = why or _unproved(rows) or _unfit(known, rows[0])
        if not why:
            return found, "; ".join(said)
        said.append(f"{name} is passed over: {why}")
    return None, "; ".join(said)


def _names(known: Known) -> list[str]:
    """Plans that every certificate speaks of."""
    named = [{row["path"] for row in added_plans(c)} for c in known.certificates]
    return sorted(set.intersection(*named)) if named else []


def _rows(known: Known, name: str) -> list[Json]:
    """What each certificate says of a plan."""
    return [row for c in known.certificates for row in added_plans(c) if row["path"] == name]


def _unproved(rows: Sequence[Json]) -> str:
    """What the certificates lack of a plan that is taken unnamed."""
    if any(row["gate"] not in PASSED for row in rows):
        return "its entry in the certificate says of no gate that it passed"
    for counts in (row["plan"]["weights_found"] for row in rows):
        if counts["found"] != counts["of"]:
            return f"{counts['found']} of {counts['of']} weights were found in it, not all"
    return ""


def _unfit(known: Known, row: Json) -> str:
    """Why a plan can't be opened on this machine."""
    here, kind, built_by = compute_capability(), row["kind"], row["plan"]["module_version"]
    if here is None:
        return "there is no GPU here"
    sidecar = json.loads(sidecar_path(known.path / row["path"]).read_text(encoding="utf-8"))
    built_for = row["plan"]["target"] or sidecar.get("compute_capability")
    if built_for not in (None, here):
        return f"it was built for {built_for}, here is {here}"
    try:
        version = str(load_module(kind).__version__)
    except UsageError as error:
        return str(error)
    if version != built_by:
        return f"it was built by {kind} {built_by}, here is {version}"
    return ""
