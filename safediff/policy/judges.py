"""The judges of a policy: defaults filled in, local paths found, hub ids pinned."""

import hashlib
from pathlib import Path
from typing import Any

from safediff.judge.registry import JUDGES
from safediff.policy.desk import Desk
from safediff.policy.judge_settings import (
    CLIP_REVISION,
    CLIP_WEIGHTS,
    ClipSettings,
    NudenetSettings,
    Q16Settings,
)
from safediff.policy.plan import Json, JudgePlan
from safediff.policy.problems import Loc

_DEFAULTS = {"nudenet": NudenetSettings, "clip": ClipSettings, "q16": Q16Settings}
_PATHS = ("weights", "prompts", "calibration")
CARD_SHA256 = "calibration_sha256"
"""Of the card that a policy names: another card is another plan."""


def resolve_judges(desk: Desk) -> tuple[JudgePlan, ...]:
    """Settings of every judge that the policy uses and that has some, by name."""
    used = _used(desk)
    if "embedded" in used and desk.policy.model.revision is not None:
        desk.notes.append(
            "judge 'embedded' sees the embedded model's pictures only: name another for "
            f"'{desk.policy.model.base}' (judge: nudenet, clip, ...)"
        )
    written: dict[str, Any] = {
        name: getattr(desk.policy.judges, name)
        for name in _DEFAULTS
        if getattr(desk.policy.judges, name) is not None
    }
    written |= desk.policy.judges.__pydantic_extra__ or {}
    for name in written:
        loc: Loc = ("judges", name)
        if reason := JUDGES.unknown(name):
            desk.source.refuse(loc, reason)
        elif name == "embedded":
            desk.source.refuse(loc, "the embedded judge has no settings")
        elif name not in used:
            desk.source.refuse(loc, f"no concept, retention group or metric uses '{name}'")
    return tuple(_judge(desk, name, written.get(name)) for name in sorted(used - {"embedded"}))


def _used(desk: Desk) -> set[str]:
    policy = desk.policy
    own = [concept.judge for concept in policy.concepts]
    own += [group.judge for group in policy.verify.retention]
    quality = policy.verify.quality
    metrics = {"clip"} & {quality.features, quality.clip_model}
    return {name or policy.judge for name in own} | metrics


def _judge(desk: Desk, name: str, entry: Any) -> JudgePlan:
    if name not in _DEFAULTS:
        return JudgePlan(name=name, settings=dict(entry or {}))
    settings: Json = (entry or _DEFAULTS[name]()).model_dump(mode="json")
    loc: Loc = ("judges", name)
    for key in _PATHS:
        if settings.get(key) is not None:
            settings[key] = _local(desk, settings[key], (*loc, key))
    if settings.get("calibration") is not None:
        settings[CARD_SHA256] = _sha256(Path(settings["calibration"]))
    if "revision" in settings:
        _pin(desk, settings, loc)
    for text in (settings.get("template", ""), *settings.get("contrast", ())):
        desk.check([text], loc)
    return JudgePlan(name=name, settings=settings)


def settings_beside_files(judge: JudgePlan) -> Json:
    """How a judge decides, without where its files lie: they are known by their hashes."""
    return {key: value for key, value in judge.settings.items() if key not in _PATHS}


def _sha256(path: Path) -> str | None:
    """None for a file that is not there, which was refused already."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _local(desk: Desk, name: str, loc: Loc) -> str:
    """The absolute path where it is one; a hub id stays."""
    path = desk.folder / Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    if loc[-1] != "weights" or name.startswith((".", "/", "~")) or name.count("/") != 1:
        desk.source.refuse(loc, f"no such file or folder: {path}")
    return name


def _pin(desk: Desk, settings: Json, loc: Loc) -> None:
    weights, revision = settings["weights"], settings["revision"]
    if Path(weights).is_absolute():
        if revision is not None:
            desk.source.refuse((*loc, "revision"), "only hub models have revisions")
    elif weights == CLIP_WEIGHTS:
        settings["revision"] = revision or CLIP_REVISION
    elif revision is None:
        message = f"'{weights}' is a hub id, so revision must pin a commit (40 hex digits)"
        desk.source.refuse((*loc, "weights"), message)
