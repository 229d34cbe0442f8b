"""Knobs: a frozen dataclass of an eraser's settings, presets of it, and a policy's overrides.

A field's type says what a policy may write; ``Annotated[float, Bounds(above=0)]`` also says in
which range. Nothing here imports torch: a policy is checked before any model loads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from safediff.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Params = TypeVar("Params", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Where a number may lie; it is finite in any case."""

    at_least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf

    def hold(self, value: float) -> bool:
        """Whether ``value`` lies inside; not-a-number never does."""
        return self.at_least <= value and self.above < value < self.below

    def __str__(self) -> str:
        named = [(f.name.replace("_", " "), getattr(self, f.name)) for f in fields(self)]
        words = [f"{name} {limit:g}" for name, limit in named if math.isfinite(limit)]
        return " and ".join(words) or "finite"


def resolve_knobs(
    method: str, presets: Mapping[str, Params], preset: str, options: Mapping[str, Any]
) -> Params:
    """The preset with the policy's overrides.

    Raises:
        UsageError: an unknown preset or knob, or a value of the wrong type or range.
    """
    if preset not in presets:
        raise UsageError(
            f"erase.preset: {method} has no preset {preset!r}", f"use {', '.join(presets)}"
        )
    base = presets[preset]
    kinds = get_type_hints(type(base), include_extras=True)
    for name, value in options.items():
        if name not in kinds:
            raise UsageError(
                f"erase.options: unknown knob {name!r} of {method}",
                f"known: {', '.join(sorted(kinds))}",
            )
        _check(name, value, kinds[name])
    return replace(base, **options)


def _check(name: str, value: Any, kind: Any) -> None:
    bounds = Bounds()
    if get_origin(kind) is Annotated:
        kind, bounds = get_args(kind)
    if get_origin(kind) is Literal:
        # a tuple's "in" would take True for 1
        good = any(type(value) is type(choice) and value == choice for choice in get_args(kind))
        expected = " or ".join(map(str, get_args(kind)))
    elif kind is float:
        good, expected = type(value) in (int, float), "a number"
    else:
        good, expected = type(value) is kind, kind.__name__
    if not good:
        raise UsageError(f"erase.options.{name}: {value!r} is not {expected}")
    if kind in (int, float) and not bounds.hold(value):
        raise UsageError(f"erase.options.{name}: must be {bounds}, not {value!r}")
