"""Consoles that write texts as they are."""

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A rich console to which brackets and colons in names, prompts and paths are no markup."""
    return Console(markup=False, emoji=False, **options)
