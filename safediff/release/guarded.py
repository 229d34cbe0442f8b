"""The guard that a certificate's pictures were drawn behind, if any.

A guard acts at sampling and lies in no file, so nothing that was measured behind one speaks of the
weights alone, nor of other steps or another guidance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """How the pictures were drawn."""

    name: str
    """Of the guard's preset."""
    num_steps: int | None
    """None where the policy does not say."""
    guidance_scale: float | None

    @property
    def told(self) -> str:
        """``guard sld-max (25 steps, guidance 7.5)``."""
        if self.num_steps is None or self.guidance_scale is None:
            return f"guard {self.name}"
        return f"guard {self.name} ({self.num_steps} steps, guidance {self.guidance_scale:g})"

    @property
    def limitation(self) -> str:
        """What follows for whoever uses the model."""
        return (
            f"Every picture but the base's was drawn behind {self.told}, which is no part of the "
            "weights: loaded without it, by diffusers for example, or asked for other steps or "
            "guidance, the model was not measured."
        )


def guarded(policy: Mapping[str, Any]) -> Guarded | None:
    """The guard of a resolved policy; None where it has none."""
    if not (guard := policy.get("guard")):
        return None
    sampling = policy.get("verify", {}).get("sampling", {})
    return Guarded(
        name=guard["name"],
        num_steps=sampling.get("num_steps"),
        guidance_scale=sampling.get("guidance_scale"),
    )
