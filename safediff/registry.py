"""Named parts: our own by import path, other packages' by entry point. Imports nothing until asked.

A package adds a part with an entry point in one of the groups ``safediff.judges``,
``safediff.metrics``, ``safediff.attacks`` and ``safediff.erasers`` (docs/extending.md).
"""

import importlib
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from safediff.errors import Inconclusive, UsageError
from safediff.policy.problems import did_you_mean, listed

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Registry:
    """Parts of one kind. Our own names are never given away: an entry point cannot take one.

    Nor one of ``reserved``: those stand for something else where parts are named.
    """

    def __init__(self, kind: str, group: str, reserved: tuple[str, ...] = ()) -> None:
        self.kind, self.group, self.reserved = kind, group, reserved
        self._targets: dict[str, str] = {}

    def register(self, name: str, target: str = "") -> None:
        """Take a name; ``target`` is ``module:attribute``, or empty where it is found otherwise.

        Raises:
            ValueError: the name or the target is malformed, or the name is taken.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(f"{self.kind} {name!r}: expected small letters, digits, dots, dashes")
        if name in self._targets:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        if target and not _TARGET.fullmatch(target):
            raise ValueError(f"{self.kind} {name!r}: expected module:attribute, got {target!r}")
        self._targets[name] = target

    @property
    def own(self) -> tuple[str, ...]:
        """The names that come with safediff."""
        return tuple(self._targets)

    def installed(self) -> dict[str, EntryPoint]:
        """What other packages add, by usable name."""
        found = entry_points(group=self.group)
        return {
            entry.name: entry
            for entry in found
            if not self._is_ours(entry.name) and re.fullmatch(NAME_PATTERN, entry.name)
        }

    def ignored(self) -> list[str]:
        """Why entry points are not used, one sentence each; for ``safediff doctor``."""
        sentences, seen = [], set()
        for entry in entry_points(group=self.group):
            package = entry.dist.name if entry.dist else "a package"
            if self._is_ours(entry.name):
                sentences.append(f"{self.kind} '{entry.name}' of {package}: the name is ours")
            elif not re.fullmatch(NAME_PATTERN, entry.name):
                sentences.append(f"{self.kind} '{entry.name}' of {package}: not a usable name")
            elif entry.name in seen:
                sentences.append(f"{self.kind} '{entry.name}' of {package}: a second one")
            seen.add(entry.name)
        return sentences

    def _is_ours(self, name: str) -> bool:
        return name in self._targets or name in self.reserved

    def unknown(self, name: str) -> str | None:
        """Why there is no such part, with the nearest name; None if there is one."""
        if name in self._targets:
            return None
        names = [*self._targets, *self.installed()]
        if name in names:
            return None
        return f"expected {listed(names)}, got text '{name}'{did_you_mean(name, names)}"

    def load(self, name: str) -> object:
        """Import the part.

        Raises:
            UsageError: there is none of that name.
            Inconclusive: its module cannot be imported.
        """
        if self.unknown(name):
            names = [*self._targets, *self.installed()]
            hint = did_you_mean(name, names)
            raise UsageError(f"unknown {self.kind} {name!r}{hint}", f"use {', '.join(names)}")
        try:
            if target := self._targets.get(name):
                return load_target(target)
            return self.installed()[name].load()
        except (ImportError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Inconclusive(
                f"{self.kind} {name!r} cannot be imported: {reason}",
                "install what it needs, or remove the package that adds it",
            ) from error


def import_part(what: str, target: str) -> Callable[..., object]:
    """The function ``module:attribute`` of another package; ``what`` names it in the error.

    Raises:
        Inconclusive: it cannot be imported, or is no function.
    """
    try:
        found = load_target(target)
    except (ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Inconclusive(
            f"{what}: {target} cannot be imported: {reason}",
            "install what it needs, or remove the package that adds it",
        ) from error
    if not callable(found):
        raise Inconclusive(f"{what}: {target} is no function")
    return found


def load_target(target: str) -> object:
    """What ``module:attribute`` names.

    Raises:
        ImportError: no such module.
        AttributeError: no such attribute.
    """
    module, _, attribute = target.partition(":")
    found: object = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found
