"""Where a prompt spells out what it asks for. Imports no torch."""

from collections.abc import Sequence


def longest_text(prompt: str, texts: Sequence[str]) -> str | None:
    """The longest of ``texts`` that ``prompt`` spells out; None where it spells none."""
    return max((text for text in texts if text in prompt), key=len, default=None)
