"""Every check that the gate can emit is explained."""

from typing import get_args

import pytest
from gate_examples import judge_accuracy

from safediff.errors import UsageError
from safediff.gate.calibration import judge_calibration
from safediff.gate.confusion import judge_confusion
from safediff.gate.explanations import EXPLANATIONS, explanation_of
from safediff.gate.verdict import Kind
from safediff.policy.plan import Metric

CALIBRATION = [
    result.id
    for result in judge_calibration(
        judge_accuracy((9, 10), (9, 10), 0.95), min_sensitivity=0.5, min_specificity=0.5
    )
] + [judge_confusion({}).id]
NAMED = {
    "calibration": CALIBRATION,
    "quality": [f"quality/{metric}" for metric in get_args(Metric)],
    "collapse": ["collapse"],
}
"""Ids that are known beforehand; all others end with a name of the policy or of a package."""


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_check_has_an_entry_of_its_own(kind: str) -> None:
    others = [] if kind in ("calibration", "collapse") else [f"{kind}/anything"]
    keys = [explanation_of(id)[0] for id in [*NAMED.get(kind, []), *others]]
    assert len(set(keys)) == len(keys)
    assert all(key.split("/")[0] == kind for key in keys)


def test_no_entry_is_left_over() -> None:
    assert {key.split("/")[0] for key in EXPLANATIONS} == set(get_args(Kind))
    assert {key for key in EXPLANATIONS if key.startswith("quality/")} == set(NAMED["quality"])


@pytest.mark.parametrize("key", EXPLANATIONS)
def test_entries_say_all_there_is_to_say(key: str) -> None:
    entry = EXPLANATIONS[key]
    assert entry.asks.endswith("?")
    assert entry.fooled_by
    for text in (entry.measures, entry.why, *entry.fooled_by):
        assert text.endswith(".")
        assert "  " not in text


@pytest.mark.parametrize(
    ("check", "key"),
    [
        ("erasure", "erasure"),
        ("erasure/kitchen knife", "erasure"),
        ("kitchen-knife/erasure", "erasure"),
        ("near-neighbours/retention", "retention"),
        ("kid", "quality/kid"),
        ("quality/kid", "quality/kid"),
        ("all/quality/kid", "quality/kid"),
        ("sensitivity", "calibration/sensitivity"),
        ("all/calibration/specificity", "calibration/specificity"),
        ("all/collapse", "collapse"),
        ("parity/onnx engine", "parity"),
        ("parity/edit", "parity/edit"),
        ("quality/colour-shift", "quality"),
        ("all/quality/colour-shift", "quality"),
        ("robustness/alignment", "robustness/alignment"),
        ("all/parity/edit", "parity/edit"),
    ],
)
def test_checks_are_found_by_any_name_that_a_report_gives_them(check: str, key: str) -> None:
    assert explanation_of(check) == (key, EXPLANATIONS[key])


@pytest.mark.parametrize("kind", ["erasure", "retention", "robustness"])
@pytest.mark.parametrize("name", ["kept", "clip", "edit", "base", "collapse", "parity/edit"])
def test_a_name_of_a_policy_that_a_check_has_too_is_no_check(kind: str, name: str) -> None:
    """A retention group may be called kept, a concept clip."""
    assert explanation_of(f"{kind}/{name}") == (kind, EXPLANATIONS[kind])


@pytest.mark.parametrize(
    ("check", "hint"),
    [
        ("erasur", "did you mean 'erasure'?"),
        ("qualiti/kidd", "did you mean 'quality/kid'?"),
        ("kidd", "did you mean 'kid'?"),
        ("retension/x", "did you mean 'retention'?"),
        ("nonsense", "'nonsense'"),
    ],
)
def test_unknown_checks_are_refused_with_the_nearest(check: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        explanation_of(check)
    assert hint in str(caught.value)
    assert caught.value.next_step == "safediff explain lists them"
