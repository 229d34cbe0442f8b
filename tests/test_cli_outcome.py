"""What a command ends with where the files of a verdict can't be written."""

import pytest

from safediff.cli.outcome import violation_first
from safediff.errors import Inconclusive, PolicyViolated, SafediffError, UsageError


@pytest.mark.parametrize("error", [Inconclusive("no room", "free some"), UsageError("no such")])
@pytest.mark.parametrize("outcome", [None, Inconclusive("undecided"), PolicyViolated("not met")])
def test_a_violation_stays_one(
    error: SafediffError, outcome: SafediffError | None, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> None:
        if outcome is not None:
            raise outcome

    violated = isinstance(outcome, PolicyViolated)
    with pytest.raises(SafediffError) as raised, violation_first(told):
        raise error
    assert raised.value is (outcome if violated else error)
    assert (str(error) in capsys.readouterr().err) is violated
