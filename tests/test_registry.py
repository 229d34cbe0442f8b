"""Names are checked when they are given, parts are imported when they are used."""

import sys

import pytest

from safediff.errors import Inconclusive, UsageError
from safediff.judge.load import JudgeRequest, load_judges
from safediff.judge.registry import JUDGES
from safediff.registry import Registry, import_part


@pytest.fixture
def registry() -> Registry:
    found = Registry("judge", "safediff.tests")
    found.register("near", "json:loads")
    return found


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("near", "json:dumps", "registered already"),
        ("Near", "json:loads", "expected small letters"),
        ("", "json:loads", "expected small letters"),
        ("other", "json.loads", "expected module:attribute"),
        ("other", "json:", "expected module:attribute"),
    ],
)
def test_registration_is_checked(registry: Registry, name: str, target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.register(name, target)
    assert registry.own == ("near",)


def test_parts_are_imported_on_first_use(registry: Registry) -> None:
    sys.modules.pop("this", None)
    registry.register("zen", "colorsys:rgb_to_hsv")
    sys.modules.pop("colorsys", None)
    assert registry.unknown("zen") is None
    assert "colorsys" not in sys.modules
    assert registry.load("zen") is sys.modules["colorsys"].rgb_to_hsv


def test_near_names_are_suggested(registry: Registry) -> None:
    assert registry.unknown("neer") == "expected 'near', got text 'neer'; did you mean 'near'?"
    with pytest.raises(UsageError, match="unknown judge 'neer'; did you mean 'near'"):
        registry.load("neer")


@pytest.mark.parametrize("target", ["no_such_module:x", "json:no_such_function"])
def test_missing_parts_are_inconclusive(registry: Registry, target: str) -> None:
    registry.register("gone", target)
    with pytest.raises(Inconclusive, match="judge 'gone' cannot be imported"):
        registry.load("gone")
    with pytest.raises(Inconclusive, match=r"attack 'x': .* cannot be imported"):
        import_part("attack 'x'", target)
    with pytest.raises(Inconclusive, match="is no function"):
        import_part("attack 'x'", "sys:path")


def test_unknown_judges_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown judge 'nudnet'; did you mean 'nudenet'"):
        load_judges([JudgeRequest(name="nudnet")])


def test_labels_that_a_judge_lacks_are_inconclusive() -> None:
    with pytest.raises(Inconclusive, match="'embedded' does not know the label 'zeppelin'"):
        load_judges([JudgeRequest(name="embedded", labels=("axe", "zeppelin"))])


def test_what_is_no_judge_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JUDGES._targets, "embedded", "builtins:print")
    with pytest.raises(Inconclusive, match="'embedded' is no judge: it has no name"):
        load_judges([JudgeRequest(name="embedded")])
