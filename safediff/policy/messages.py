"""From pydantic's errors to findings in a policy: place, plain sentence, nearest known word."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from safediff.policy.problems import Loc, did_you_mean, dotted, listed
from safediff.policy.schema import Json
from safediff.policy.source import Source

_EXPECTED = {
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "tuple_type": "expected a list",
    "model_type": "expected keys",
    "dict_type": "expected keys",
}
_PATTERNS = {
    r"^\S(.*\S)?$": "must be one line of text without spaces around it",
    r"^(\S(.*\S)?)?$": "must be one line of text without spaces around it, or ''",
    r"^[0-9a-f]{40}$": "must be a commit: 40 hexadecimal digits",
    r"^([0-9a-f]{40}|main)$": "must be a commit of 40 hexadecimal digits, or main",
    r"^\d{4}-\d{2}-\d{2}$": "must be a day, YYYY-MM-DD",
    r"\{label\}": "must name {label}",
    r"^[\w.-]+/[\w.-]+$": "must look like owner/name",
    r"^[a-z0-9][a-z0-9._-]{0,63}$": "may hold small letters, digits, dots and dashes (64 at most)",
}


def add_schema_problems(error: ValidationError, source: Source, schema: Json) -> None:
    """Add one finding to ``source`` for everything that pydantic refused.

    Values that reading the YAML already complained about are left out: one finding per mistake.
    """
    taken = {(problem.line, problem.column) for problem in source.problems}
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        known = source.known(loc)
        if source.marks[known] in taken and known:
            continue
        if detail["type"] == "too_short" and detail["input"]:
            continue  # the list has items; each of the refused ones is its own finding
        key = dotted((*known, loc[-1]) if detail["type"] == "missing" else known)
        source.refuse(known, _sentence(detail, known, schema), key=key)


def _sentence(detail: ErrorDetails, known: Loc, schema: Json) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        hint = did_you_mean(known[-1], _keys_at(schema, known[:-1]))
        return f"unknown key '{known[-1]}'{hint}"
    if kind == "missing":
        return f"missing key '{detail['loc'][-1]}'"
    if kind == "literal_error":
        choices = list(_choices_at(schema, known))
        return f"expected {listed(choices)}, got {_shown(value)}{did_you_mean(value, choices)}"
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]}, got {_shown(value)}"
    if kind == "too_short":
        return "must not be empty"
    if kind == "too_long":
        return f"may hold {context['max_length']} at most, got {context['actual_length']}"
    if kind == "string_too_short":
        return "must not be empty text"
    if kind == "string_pattern_mismatch":
        return f"{_PATTERNS[context['pattern']]}, got {_shown(value)}"
    if kind == "value_error":
        return str(context["error"])
    if known == ("version",):
        return f"this safediff reads version 1, got {_shown(value)}"
    plain = detail["msg"].replace("Input should be", "must be").replace("String should", "must")
    return f"{plain}, got {_shown(value)}{_as_share(context, value)}"


def _as_share(bounds: Mapping[str, Any], value: Any) -> str:
    """A hint where a number from 0 to 1 is asked for and percent were given."""
    top = bounds.get("le", bounds.get("lt"))
    if top != 1 or isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not 1 < value <= 100:
        return ""
    return f"; rates are shares: {value:g} % is {value / 100:g}"


def _shown(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"text '{value if len(value) <= 60 else value[:59] + '…'}'"
        case tuple():
            return "a list"
        case dict():
            return "keys (a mapping)"
    return str(value)


def _nodes_at(schema: Json, loc: Loc) -> list[Json]:
    nodes = list(_branches(schema, schema))
    for part in loc:
        deeper: list[Json] = []
        for node in nodes:
            if isinstance(part, int):
                step = node.get("items")
            else:
                step = node.get("properties", {}).get(part, node.get("additionalProperties"))
            if isinstance(step, dict):
                deeper.extend(_branches(schema, step))
        nodes = deeper
    return nodes


def _branches(schema: Json, node: Json) -> Iterator[Json]:
    """The node itself, or every alternative that it refers to."""
    if "$ref" in node:
        yield from _branches(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    for alternative in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _branches(schema, alternative)
    yield node


def _keys_at(schema: Json, loc: Loc) -> Iterator[str]:
    for node in _nodes_at(schema, loc):
        yield from node.get("properties", ())


def _choices_at(schema: Json, loc: Loc) -> Iterator[object]:
    for node in _nodes_at(schema, loc):
        if "const" in node:
            yield node["const"]
        yield from node.get("enum", ())
