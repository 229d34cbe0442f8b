"""Presets that were tuned on the embedded model are noted on others."""

from pathlib import Path

import pytest
from policy_examples import plan_of

HUB = ("base: embedded", f"base: owner/model, revision: {'a1' * 20}")
TUNED = "was tuned on the embedded model only; preset: paper is the published one"


def notes(folder: Path, erase: str, *edits: tuple[str, str]) -> list[str]:
    plan = plan_of(folder, ("keep:", f"erase: {erase}\nkeep:"), *edits)
    return [note for note in plan.notes if note.startswith("erase.preset: ")]


@pytest.mark.parametrize("preset", ["safediff", "fast"])
def test_they_are_noted(tmp_path: Path, preset: str) -> None:
    assert notes(tmp_path, f"{{preset: {preset}}}", HUB) == [f"erase.preset: '{preset}' {TUNED}"]


def test_so_is_the_default(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, "{seed: 1}", HUB)
    assert note == f"erase.preset: 'safediff', the default, {TUNED}"


@pytest.mark.parametrize(
    "erase", ["{preset: paper}", "{preset: repo}", "{method: speed, preset: safediff}"]
)
def test_published_settings_and_other_methods_are_not(tmp_path: Path, erase: str) -> None:
    assert notes(tmp_path, erase, HUB) == []


def test_the_embedded_model_is_what_they_are_for(tmp_path: Path) -> None:
    assert notes(tmp_path, "{preset: fast}") == []
