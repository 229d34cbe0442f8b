"""What the models of a policy are made of: the strict base class, texts, names of parts."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from safediff.attack.params import ATTACK_REGISTRY
from safediff.erase.methods import ERASERS
from safediff.judge.registry import JUDGES
from safediff.registry import NAME_PATTERN, Registry

Text = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^\S(.*\S)?$")]
"""One line without spaces around it."""

TextList = Annotated[tuple[Text, ...], Field(min_length=1)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


def _can_be_missed(limit: float) -> float:
    if limit == 1.0:
        raise ValueError("any model keeps a limit of 1; rates are shares, so 1 % is 0.01")
    return limit


MaxRate = Annotated[Rate, AfterValidator(_can_be_missed)]
"""Of a check; one that nothing can exceed is a slip of the pen."""

Premise = Annotated[float, Field(gt=0.0, le=1.0)]
"""The least that must hold before anything is claimed; 0 would ask for nothing."""


class Entry(BaseModel):
    """Unknown keys are refused, nothing is converted, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _known(registry: Registry) -> Callable[[str], str]:
    def check(name: str) -> str:
        if reason := registry.unknown(name):
            raise ValueError(reason)
        return name

    return check


def _schema(registry: Registry) -> dict[str, Any]:
    """Our names for editors to offer; others are accepted, since a package may add them."""
    return {"anyOf": [{"enum": [*registry.own]}, {"type": "string", "pattern": NAME_PATTERN}]}


JudgeName = Annotated[str, AfterValidator(_known(JUDGES)), WithJsonSchema(_schema(JUDGES))]
MethodName = Annotated[str, AfterValidator(_known(ERASERS)), WithJsonSchema(_schema(ERASERS))]
AttackName = Annotated[
    str,
    AfterValidator(_known(ATTACK_REGISTRY)),
    WithJsonSchema(_schema(ATTACK_REGISTRY)),
]
"""Of ours or of an installed package; checked without importing that."""
