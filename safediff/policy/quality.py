"""Quality limits: what each is measured on, and whether the local weights for that are there."""

from pathlib import Path

from safediff.metrics.registry import METRICS
from safediff.policy.desk import Desk
from safediff.policy.plan import Metric, QualityCheck, QualitySource
from safediff.policy.problems import Loc

_LOC: Loc = ("verify", "quality")
_METRICS: tuple[Metric, ...] = ("fid", "kid", "clip", "lpips", "null_drift")

_Choice = tuple[QualitySource, str | None]
"""What is compared, and the file of its weights."""


def resolve_quality(desk: Desk) -> tuple[QualityCheck, ...]:
    """One check per limit; a choice that no limit uses is refused."""
    entry = desk.policy.verify.quality
    features = _choice(desk, "features", "features_weights", ("fid", "kid"))
    net = _choice(desk, "lpips_net", "lpips_weights", ("lpips",))
    encoder = _choice(desk, "clip_model", None, ("clip",))
    chosen: dict[Metric, _Choice] = {
        "fid": features,
        "kid": features,
        "clip": encoder,
        "lpips": net,
    }
    checks = []
    for metric in _METRICS:
        limit: float | None = getattr(entry, metric)
        if limit is not None:
            source, weights = chosen.get(metric, ("judge", None))
            line = desk.source.line((*_LOC, metric))
            checks.append(
                QualityCheck(
                    metric=metric, limit=limit, line=line, features=source, weights=weights
                )
            )
    return (*checks, *_of_packages(desk))


def _of_packages(desk: Desk) -> list[QualityCheck]:
    checks = []
    for name, limit in desk.policy.verify.quality.metrics.items():
        loc: Loc = (*_LOC, "metrics", name)
        if name in METRICS.own:
            desk.source.refuse(loc, f"'{name}' is ours: write it in quality itself")
        elif reason := METRICS.unknown(name):
            desk.source.refuse(loc, reason)
        else:
            checks.append(QualityCheck(metric=name, limit=limit, line=desk.source.line(loc)))
    return checks


def _choice(desk: Desk, key: str, weights_key: str | None, metrics: tuple[Metric, ...]) -> _Choice:
    entry = desk.policy.verify.quality
    source: QualitySource = getattr(entry, key)
    name: str | None = getattr(entry, weights_key) if weights_key else None
    if source != "judge" and all(getattr(entry, metric) is None for metric in metrics):
        message = f"'{source}' would not be used: there is no limit on {' or '.join(metrics)}"
        desk.source.refuse((*_LOC, key), message)
    if name is None or weights_key is None:
        return source, None
    path = desk.folder / Path(name).expanduser()
    if source in ("judge", "clip"):
        message = f"would not be used: the {source} brings its own weights; choose another {key}"
        desk.source.refuse((*_LOC, weights_key), message)
    elif not path.is_file():
        desk.source.refuse((*_LOC, weights_key), f"no such file: {path}")
    return source, str(path.resolve())
