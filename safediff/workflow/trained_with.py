"""What a finished patch was trained with, noted beside it: presets change between versions.

A plan names its preset; the values that stood for the name when the patch was made are noted here.
"""

import json
from dataclasses import asdict
from typing import Any

from safediff.erase.methods import EraserParams
from safediff.erase.params import HOW_IT_RUNS, DistilParams
from safediff.errors import UsageError
from safediff.workflow.run_folder import RunFolder

COST = "training.json"
"""In a run's folder: what the training took, and what it was trained with."""


def settings_that_count(params: EraserParams) -> dict[str, Any]:
    """The settings by name, as plain data; of a distillation without ``HOW_IT_RUNS``."""
    apart = HOW_IT_RUNS if isinstance(params, DistilParams) else ()
    # another package's settings may be of any type
    found: dict[str, Any] = json.loads(json.dumps(asdict(params), default=str))
    return {name: value for name, value in found.items() if name not in apart}


def require_same_settings(run: RunFolder, params: EraserParams) -> None:
    """Refuse a patch that is there and was trained with other settings.

    Knobs that only one of the two versions has are not compared. Earlier versions noted nothing:
    their patches are taken.

    Raises:
        UsageError: a setting differs.
    """
    path = run.path / COST
    if not run.patch.exists() or not path.exists():
        return
    noted = json.loads(path.read_text(encoding="utf-8")).get("settings", {})
    for name, now in settings_that_count(params).items():
        if name in noted and noted[name] != now:
            raise UsageError(
                f"{run.patch}: was trained with {name} {noted[name]!r}, and with this version it "
                f"would be {now!r}",
                "begin in another folder: --out",
            )
