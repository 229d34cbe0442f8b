"""Explanations in a terminal."""

import io

import pytest
from rich.console import Console, RenderableType

from safediff.gate.explanations import EXPLANATIONS
from safediff.report.explanation import render_explanation, render_list


def show(shown: RenderableType) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=80, highlight=False).print(shown)
    return buffer.getvalue()


@pytest.mark.parametrize("key", EXPLANATIONS)
def test_all_of_an_entry_is_shown(key: str) -> None:
    entry = EXPLANATIONS[key]
    text = show(render_explanation(key, entry))
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in (key, entry.asks, entry.measures, entry.why, *entry.fooled_by, *entry.references):
        assert part in words
    assert ("References" in text) == bool(entry.references)


def test_the_list_has_every_check() -> None:
    text = show(render_list(EXPLANATIONS))
    assert max(map(len, text.splitlines())) <= 80
    for key, entry in EXPLANATIONS.items():
        assert f"{key} " in text
        assert entry.asks.split()[-3] in text
