"""The systems that one comparison can measure, by row id. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from safediff.erase.methods import METHODS
from safediff.errors import UsageError
from safediff.policy.plan import ErasePlan, Plan
from safediff.policy.problems import did_you_mean

POLICY = "policy"
"""The row that the others are tested against: the policy's own eraser and settings."""
OTHER_SEED = "policy-seed"
"""The same with another training seed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system: a guard around the base, an eraser, or the base as it is."""

    id: str
    title: str
    """``{own}`` stands for the policy's own eraser."""
    guard: str | None = None
    method: str | None = None
    preset: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    role: Literal["teacher", "student"] = "teacher"
    own: bool = False
    """Method, preset and options are the policy's own; ``options`` go on top."""
    seed_shift: int = 0
    """Added to the policy's training seed."""

    def title_for(self, plan: Plan) -> str:
        """What a reader calls the row."""
        method, preset = plan.erase.method, plan.erase.preset
        published = f"{METHODS[method].title} ({preset})"
        ours = preset in ("safediff", "fast") and method == "sdd"
        return self.title.format(own="SDD (ours)" if ours else published)

    def erase_plan(self, plan: Plan) -> ErasePlan | None:
        """How this row erases; None where it does not."""
        policy = plan.erase
        seed = policy.seed + self.seed_shift
        if self.own:
            options = {**policy.options, **self.options}
            return ErasePlan(
                method=policy.method,
                preset=policy.preset,
                seed=seed,
                options=options,
                keep=policy.keep,
            )
        if self.method is None:
            return None
        return ErasePlan(
            method=self.method,
            preset=self.preset,
            seed=seed,
            options=dict(self.options),
            keep=policy.keep,
        )


def _guards() -> Iterable[Row]:
    titles = {
        "neg": "SD+NEG",
        "sld-weak": "SLD weak (scale 20)",
        "sld-weak-200": "SLD weak (scale 200)",
        "sld-medium": "SLD medium",
        "sld-strong": "SLD strong",
        "sld-max": "SLD max",
        "sega": "SEGA",
        "sega-medium": "SEGA medium",
        "sega-strong": "SEGA strong",
        "sega-max": "SEGA max",
    }
    return (Row(id=id, title=title, guard=id) for id, title in titles.items())


ROWS: Mapping[str, Row] = {
    row.id: row
    for row in (
        Row(id="sd", title="SD (base)"),
        *_guards(),
        Row(id="esd-u-3", title="ESD-u-3", method="esd-u", preset="eta-3"),
        Row(id="esd-x-3", title="ESD-x-3", method="esd-x", preset="eta-3"),
        Row(id="esd-x-1", title="ESD-x-1", method="esd-x", preset="eta-1"),
        Row(id="esd-x-strict", title="ESD-x strict", method="esd-x", preset="strict"),
        Row(id="sdd-teacher", title="SDD, EMA teacher", method="sdd", preset="paper"),
        Row(id="sdd-student", title="SDD, student", method="sdd", preset="paper", role="student"),
        Row(id="sdd-repo-teacher", title="SDD (repo), teacher", method="sdd", preset="repo"),
        Row(
            id="sdd-repo-student",
            title="SDD (repo), student",
            method="sdd",
            preset="repo",
            role="student",
        ),
        Row(id="uce", title="UCE", method="uce", preset="paper"),
        Row(id="rece", title="RECE", method="rece", preset="hard"),
        Row(id="speed", title="SPEED", method="speed", preset="paper"),
        Row(id="uce-fitted", title="UCE (fitted)", method="uce", preset="safediff"),
        Row(id="rece-fitted", title="RECE (fitted)", method="rece", preset="safediff"),
        Row(id="speed-fitted", title="SPEED (fitted)", method="speed", preset="safediff"),
        Row(id=POLICY, title="{own}, teacher", own=True),
        Row(id="policy-student", title="{own}, student", own=True, role="student"),
        Row(id=OTHER_SEED, title="{own}, other seed", own=True, seed_shift=1),
        Row(
            id="policy-hardened",
            title="{own}, hardened",
            own=True,
            options={"way_back_share": 0.4},
        ),
        Row(id="sdd-fast", title="SDD (ours), fast", method="sdd", preset="fast"),
        Row(id="policy-lora-4", title="{own}, LoRA 4", own=True, options={"lora_rank": 4}),
        Row(id="policy-lora-16", title="{own}, LoRA 16", own=True, options={"lora_rank": 16}),
    )
}

QUICK = ("sd", "neg", "sld-medium", "sld-max", "uce", "rece", "speed", POLICY)
"""What is measured in minutes: no published distillation."""

DEFAULT = (
    *("sd", "neg", "sld-weak", "sld-medium", "sld-strong", "sld-max", "sega"),
    *("esd-u-3", "esd-x-3", "sdd-teacher", "sdd-student", "uce", "rece", "speed"),
    *("uce-fitted", "rece-fitted", "speed-fitted"),
    *(POLICY, "policy-student", OTHER_SEED, "policy-hardened", "sdd-fast"),
    *("policy-lora-4", "policy-lora-16"),
)
"""The paper's rows, the closed-form ones and our own."""


def choose(names: Sequence[str]) -> list[Row]:
    """The named rows in the registry's order, with the base and the policy's row among them.

    Raises:
        UsageError: there is no such row.
    """
    for name in names:
        if name not in ROWS:
            raise UsageError(
                f"--rows: there is no row {name!r}{did_you_mean(name, ROWS)}",
                f"use {', '.join(ROWS)}",
            )
    wanted = {"sd", POLICY, *names}
    return [row for id, row in ROWS.items() if id in wanted]
