"""The systems that one comparison can measure, by row id. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from safediff.erase.methods import METHODS, find_method, settings_of
from safediff.erase.params import HOW_IT_RUNS, MEMORY, DistilParams
from safediff.errors import UsageError
from safediff.guard.params import find_preset, planned_branches
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
        published = f"{find_method(method).title} ({preset})"
        ours = preset in ("safediff", "fast") and method == "sdd"
        return self.title.format(own="SDD (ours)" if ours else published)

    def erase_plan(self, plan: Plan) -> ErasePlan | None:
        """How this row erases; None where it does not."""
        policy = plan.erase
        seed = (policy.seed + self.seed_shift) % 2**63  # as far as a policy's go
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
            options={**self._memory_of(policy), **self.options},
            keep=policy.keep,
        )

    def guidance_branches(self, plan: Plan, plain: int = 2) -> int:
        """Passes of each of its pictures and steps; ``plain``: without a guard.

        The policy's rows are drawn behind its guard, guards of their own steer away from all that
        is erased.
        """
        if self.guard:
            num_texts = sum(len(concept.erase) for concept in plan.concepts)
            return find_preset(self.guard).num_branches(num_texts)
        return planned_branches(plan.guard if self.own else None, plain)

    def _memory_of(self, policy: ErasePlan) -> Mapping[str, Any]:
        """The policy's knobs of memory, where the row distils: all rows then train alike."""
        if self.method is None:
            return {}
        if not isinstance(find_method(self.method).presets[self.preset], DistilParams):
            return {}
        return {name: policy.options[name] for name in MEMORY if name in policy.options}


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
        Row(id="uce-style", title="UCE (style)", method="uce", preset="style"),
        Row(id="rece", title="RECE", method="rece", preset="hard"),
        Row(id="rece-easy", title="RECE (easy)", method="rece", preset="easy"),
        Row(id="rece-nudity", title="RECE (nudity)", method="rece", preset="nudity"),
        Row(id="rece-i2p", title="RECE (I2P)", method="rece", preset="i2p"),
        Row(id="speed", title="SPEED", method="speed", preset="paper"),
        Row(id="speed-nudity", title="SPEED (nudity)", method="speed", preset="nudity"),
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
        Row(id="sdd-safediff", title="SDD (ours), preset", method="sdd", preset="safediff"),
        Row(id="sdd-fast", title="SDD (ours), fast", method="sdd", preset="fast"),
        Row(id="policy-lora-4", title="{own}, LoRA 4", own=True, options={"lora_rank": 4}),
        Row(id="policy-lora-16", title="{own}, LoRA 16", own=True, options={"lora_rank": 16}),
    )
}

QUICK = ("sd", "neg", "sld-max", "uce", "rece", POLICY)
"""What is measured in minutes: no published distillation."""

DEFAULT = (
    *("sd", "neg", "sld-weak", "sld-medium", "sld-strong", "sld-max", "sega"),
    *("esd-u-3", "esd-x-3", "sdd-teacher", "sdd-student"),
    *("uce", "rece", "speed", "uce-fitted", "rece-fitted", "speed-fitted"),
    *(POLICY, "policy-student", OTHER_SEED, "sdd-fast"),
)
"""The paper's rows, the closed-form ones and our own."""

ALL = (
    *DEFAULT,
    *("sld-weak-200", "sega-medium", "sega-strong", "sega-max", "esd-x-1", "esd-x-strict"),
    *("sdd-repo-teacher", "sdd-repo-student"),
    *("policy-hardened", "sdd-safediff", "policy-lora-4", "policy-lora-16"),
)
"""With the other published settings, the other reading of SDD and our variants. Rows of the presets
for a kind of concept (``rece-nudity``, ``uce-style``, ...) are asked for by name."""

SETS: Mapping[str, Sequence[str]] = {"quick": QUICK, "default": DEFAULT, "all": ALL}
"""Names that stand for several rows."""


def choose(names: Sequence[str], plan: Plan | None = None) -> list[Row]:
    """The named rows in the registry's order, with the base and the policy's row among them.

    ``quick``, ``default`` and ``all`` stand for their rows; given the plan, without those that
    would measure another row's model once more, or that its eraser has no such settings for.

    Raises:
        UsageError: there is no such row.
    """
    wanted = {"sd", POLICY}
    for name in names:
        if name in SETS:
            rows = [ROWS[id] for id in SETS[name]]
            wanted |= {row.id for row in (rows if plan is None else _distinct(rows, plan))}
        elif name in ROWS:
            wanted.add(name)
        else:
            known = [*SETS, *ROWS]
            raise UsageError(
                f"--rows: there is no row {name!r}{did_you_mean(name, known)}",
                f"use {', '.join(known)}",
            )
    return [row for id, row in ROWS.items() if id in wanted]


def _distinct(rows: Sequence[Row], plan: Plan) -> list[Row]:
    """One row of each model; the policy's own come first, since the others are tested against them.

    A preset that the policy changes nothing of, its student where there is no moving average, and
    its second seed where nothing is drawn at random would be measured twice.
    """
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: not row.own):
        try:
            found.setdefault(_model(row, plan), row)
        except UsageError:  # the policy's eraser lacks the settings that its row would add
            continue
    return list(found.values())


_AS_PRESET: Mapping[str, Any] = {n: getattr(DistilParams(), n) for n in HOW_IT_RUNS}


def _model(row: Row, plan: Plan) -> str:
    """What the row draws with: equal for two rows whose pictures are equal, but for rounding.

    Raises:
        UsageError: the row's settings do not fit its eraser.
    """
    erase = row.erase_plan(plan)
    if erase is None:
        return repr(("guard", row.guard))
    params = settings_of(erase)
    if isinstance(params, DistilParams):
        params = replace(params, **_AS_PRESET)
    guard = plan.guard if row.own else None
    if erase.method in METHODS and not isinstance(params, DistilParams):
        return repr((erase.method, params, guard))
    averaged = isinstance(params, DistilParams) and params.ema_decay > 0
    role = row.role if averaged else "teacher"
    return repr((erase.method, params, erase.seed, guard, role))
