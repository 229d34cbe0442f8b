"""YAML with source positions: every value remembers the line and column of its key.

Stricter than YAML on purpose, because a policy must mean what it looks like: duplicate keys,
aliases, ``no``/``on`` booleans, ``010`` octals and ``1e-2`` texts are findings, not values.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from safediff.errors import PolicyError, UsageError
from safediff.policy.problems import Loc, Problem, dotted

_TAG = "tag:yaml.org,2002:"
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


@dataclass
class Source:
    """A parsed file: plain data (lists as tuples), the place of every key, findings so far."""

    path: str
    lines: list[str]
    sha256: str = ""
    """Hash of the file's bytes."""
    data: Any = None
    marks: dict[Loc, tuple[int, int]] = field(default_factory=lambda: {(): (1, 1)})
    problems: list[Problem] = field(default_factory=list)

    def known(self, loc: Loc) -> Loc:
        """The parts of ``loc`` that stand in the file; others (union tags) are skipped."""
        found: Loc = ()
        for part in loc:
            if (*found, part) in self.marks:
                found = (*found, part)
        return found

    def line(self, loc: Loc) -> int:
        """Line of the nearest key of ``loc`` that stands in the file."""
        return self.marks[self.known(loc)][0]

    def refuse(self, loc: Loc, message: str, *, key: str | None = None) -> None:
        """Add a finding at the nearest key of ``loc`` that stands in the file."""
        found = self.known(loc)
        self._add(*self.marks[found], message, dotted(found) if key is None else key)

    def refuse_at(self, line: int, column: int, message: str) -> None:
        """Add a finding that belongs to a place, not to a key."""
        self._add(line, column, message, "")

    def _add(self, line: int, column: int, message: str, key: str) -> None:
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        problem = Problem(
            path=self.path, line=line, column=column, key=key, message=message, text=text
        )
        if problem not in self.problems:
            self.problems.append(problem)

    def error(self) -> PolicyError:
        """Everything found so far, sorted by line."""
        return PolicyError([str(problem) for problem in sorted(self.problems)])

    def raise_problems(self) -> None:
        """Stop if anything was found.

        Raises:
            PolicyError: there is at least one finding.
        """
        if self.problems:
            raise self.error()


def read_source(path: Path) -> Source:
    """Read a policy file into plain data with positions.

    Raises:
        UsageError: the file cannot be read.
        PolicyError: it is not a YAML mapping at all; lesser findings stay in ``problems``.
    """
    source = Source(path=str(path), lines=[])
    raw = _read_bytes(path)
    source.sha256 = hashlib.sha256(raw).hexdigest()
    text = _decode(raw, source)
    source.lines = text.splitlines()
    node = _compose(text, source)
    if node is None:
        source.raise_problems()
    if not isinstance(node, yaml.MappingNode):
        what = "the policy is empty" if node is None else "the policy is not a mapping"
        source.refuse_at(1, 1, f"{what}; expected keys such as version, name, model")
        raise source.error()
    source.marks[()] = _start(node)
    source.data = _build(node, (), source)
    return source


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"no such policy file: {path}", "check the path") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder, not a policy file", f"try {path}/*.yaml") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error


def _decode(raw: bytes, source: Source) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        source.refuse_at(raw[: error.start].count(b"\n") + 1, 1, "not UTF-8 text")
        raise source.error() from error


class _Loader(yaml.SafeLoader):
    """Composes nodes without following aliases: one may refer to itself."""

    def __init__(self, text: str, source: Source) -> None:
        super().__init__(text)
        self.source = source

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if not self.check_event(yaml.AliasEvent):
            return super().compose_node(parent, index)
        event = self.get_event()  # type: ignore[no-untyped-call]
        message = f"alias '*{event.anchor}' is not allowed; write the value out"
        self.source.refuse_at(*_start(event), message)
        return yaml.ScalarNode(f"{_TAG}null", "", event.start_mark, event.end_mark)


def _compose(text: str, source: Source) -> yaml.Node | None:
    try:
        return _Loader(text, source).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        source.refuse_at(line, column, f"{error.problem or error.context}{hint}")
    except yaml.reader.ReaderError as error:
        before = text[: int(error.position)]
        column = len(before) - before.rfind("\n")
        message = f"character {chr(error.character)!r} is not allowed"
        source.refuse_at(before.count("\n") + 1, column, message)
    except RecursionError:
        source.refuse_at(1, 1, "nested too deeply")
    return None


def _start(at: yaml.Node | yaml.Event) -> tuple[int, int]:
    mark = at.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _build(node: yaml.Node, loc: Loc, source: Source) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, loc, source)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            source.marks[(*loc, index)] = _start(item)
        return tuple(_build(item, (*loc, i), source) for i, item in enumerate(node.value))
    return _scalar(node, loc, source)


def _mapping(node: yaml.MappingNode, loc: Loc, source: Source) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            source.refuse_at(*_start(key_node), "a key must be text")
            continue
        # The text as written: `on:` is the key "on", not the boolean that YAML makes of it.
        key = str(key_node.value)
        here = (*loc, key)
        if key in built:
            first = source.marks[here][0]
            message = f"duplicate key '{key}', first given on line {first}"
            source._add(*_start(key_node), message, dotted(here))
            continue
        source.marks[here] = _start(key_node)
        built[key] = _build(value_node, here, source)
    return built


def _scalar(node: yaml.Node, loc: Loc, source: Source) -> Any:
    kind, text = str(node.tag).removeprefix(_TAG), str(node.value)
    match kind:
        case "null":
            return None
        case "str" if getattr(node, "style", "'") is None and _EXPONENT.fullmatch(text):
            plain = f"{float(text):.12f}".rstrip("0").rstrip(".")
            source.refuse(loc, f"YAML reads {text} as text; write {plain}, or quote it")
            return float(text)
        case "str" | "timestamp":
            return text
        case "bool" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "bool":
            source.refuse(loc, f"YAML reads {text} as a boolean; quote it or write true or false")
            return text
        case "int" | "float":
            return _number(kind, text, loc, source)
    source.refuse(loc, f"tag '{node.tag}' is not allowed")
    return text


def _number(kind: str, text: str, loc: Loc, source: Source) -> int | float | None:
    digits = text.replace("_", "")
    octal = kind == "int" and re.fullmatch(r"[-+]?0[0-9]+", digits)
    try:
        if not octal:
            return int(digits) if kind == "int" else float(digits)
    except ValueError:  # hexadecimal, sexagesimal, .nan, .inf
        pass
    source.refuse(loc, f"YAML reads {text} in a special way; write a plain decimal, or quote it")
    return None
