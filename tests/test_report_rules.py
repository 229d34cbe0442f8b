"""How a check is named in CI, and where its policy lies."""

from pathlib import Path

import pytest
from ci_examples import all_verdicts, passing
from gate_examples import make_report, make_result

from safediff.gate.verdict import Verdict
from safediff.report.rules import deciding, policy_uri, rule_id, sentence


@pytest.mark.parametrize(
    ("id", "concept", "rule"),
    [
        ("erasure/all", "all", "all/erasure"),
        ("erasure/kitchen knife", "kitchen knife", "kitchen-knife/erasure"),
        ("retention/near neighbours", "near neighbours", "near-neighbours/retention"),
        ("collapse", "all", "all/collapse"),
        ("quality/kid", "all", "all/quality/kid"),
        ("calibration/sensitivity", "all", "all/calibration/sensitivity"),
        ("parity/onnx engine", "all", "all/parity/onnx-engine"),
    ],
)
def test_rules_are_concept_and_check(id: str, concept: str, rule: str) -> None:
    assert rule_id(make_result(id, Verdict.FAIL, concept=concept)) == rule


def test_only_what_decides_is_spoken_of() -> None:
    assert [report.subject for report in deciding(all_verdicts())] == ["model", "onnx engine"]
    with pytest.raises(ValueError, match="no gate report decides"):
        deciding([make_report((), decides=False)])


def test_the_subject_is_named_where_there_are_several() -> None:
    first, *_ = several = all_verdicts()
    assert sentence(first, first.results[0], several) == f"model: {first.results[0].message}"
    assert sentence(first, first.results[0], passing()) == first.results[0].message


def test_the_policy_is_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert policy_uri(Path("policies/p.yaml")) == "policies/p.yaml"
    assert policy_uri(tmp_path / "sub" / "p.yaml") == "p.yaml"
    assert policy_uri(Path("../p.yaml")) == "../p.yaml"  # outside of the root: as given
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    assert policy_uri(Path("p.yaml")) == "sub/p.yaml"
    assert policy_uri(Path("../p.yaml")) == "p.yaml"
