"""Findings in a policy, printed the way compilers print them: place, sentence, line, caret."""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

Loc = tuple[str | int, ...]
"""Where a value sits: keys and list indices from the root."""

_WINDOW = 96
"""Characters of a source line that are shown; longer lines are cut around the caret."""


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """One finding; ``line`` and ``column`` count from 1. Ordered by place."""

    line: int
    column: int
    message: str
    path: str
    key: str = ""
    """Dotted path of the key, empty when the file as a whole is meant."""
    text: str = ""
    """The source line, without its line break."""

    def __str__(self) -> str:
        """``file:line:column: error: key: message`` and the source line with a caret."""
        key = f"{self.key}: " if self.key else ""
        head = f"{self.path}:{self.line}:{self.column}: error: {key}{self.message}"
        if not self.text.strip():
            return head
        shown, caret = _cut(self.text.replace("\t", " "), self.column - 1)
        return f"{head}\n{self.line:>5} | {shown}\n      | {' ' * caret}^"


def _cut(text: str, caret: int) -> tuple[str, int]:
    if len(text) <= _WINDOW:
        return text, caret
    start = max(0, min(caret - _WINDOW // 3, len(text) - _WINDOW))
    left = "… " if start else ""
    right = " …" if start + _WINDOW < len(text) else ""
    return left + text[start : start + _WINDOW] + right, caret - start + len(left)


def dotted(loc: Loc) -> str:
    """``("concepts", 0, "erase")`` -> ``concepts.0.erase``."""
    return ".".join(str(part) for part in loc)


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """``; did you mean 'x'?`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def listed(words: Collection[object]) -> str:
    """``'a', 'b' or 'c'``."""
    quoted = [f"'{w}'" if isinstance(w, str) else str(w) for w in words]
    return " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
