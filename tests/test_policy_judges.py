"""``judges:`` of a policy."""

from pathlib import Path

import pytest
from policy_examples import findings, plan_of

from safediff.policy.judge_settings import CLIP_REVISION, CLIP_WEIGHTS

COMMIT = "f" * 40


def judges(words: str, judge: str = "clip") -> tuple[tuple[str, str], ...]:
    labels = {"nudenet": "\n    labels: [nudity]", "q16": "\n    labels: [inappropriate]"}
    return (
        ("model:", f"judges: {words}\nmodel:"),
        ("  - name: knife\n", f"  - name: knife\n    judge: {judge}{labels.get(judge, '')}\n"),
    )


def test_policies_without_other_judges_hash_as_before(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert plan.judges == ()
    assert "judges" not in plan.to_json()


def test_defaults_are_filled_in_and_pinned(tmp_path: Path) -> None:
    (found,) = plan_of(tmp_path, judges("{}")[1]).judges
    assert found.name == "clip"
    assert (found.settings["weights"], found.settings["revision"]) == (CLIP_WEIGHTS, CLIP_REVISION)
    assert found.settings["template"] == "{label}"
    assert found.settings["threshold"] == 0.5
    assert len(found.settings["contrast"]) == 2


def test_an_erased_label_is_asked_of_one_judge(tmp_path: Path) -> None:
    """A picture has one score of each label."""
    edit = (
        "  - name: knife\n",
        "  - name: knife\n    judge: clip\n    labels: [a knife, dagger]\n",
    )
    message = "judges 'clip' and 'embedded' are both asked for the label 'dagger'"
    found = findings(tmp_path, edit)
    assert [f.partition("error: ")[2] for f in found] == [
        f"concepts.0.labels: {message}: ask one of them",
        f"concepts.1.erase: {message}: ask one of them",
    ]


def test_settings_change_the_hash(tmp_path: Path) -> None:
    words = ("{clip: {threshold: 0.4}}", "{clip: {threshold: 0.5}}", "{clip: {contrast: [noise]}}")
    assert len({plan_of(tmp_path, *judges(text)).sha256 for text in words}) == 3


def test_local_paths_are_found_beside_the_policy(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "p.npy").write_bytes(b"")
    words = "{q16: {weights: weights, prompts: p.npy}}"
    (found,) = plan_of(tmp_path, *judges(words, "q16")).judges
    assert found.settings["weights"] == str((tmp_path / "weights").resolve())
    assert found.settings["prompts"] == str((tmp_path / "p.npy").resolve())
    assert found.settings["revision"] is None


def test_metrics_may_use_clip_without_its_judge(tmp_path: Path) -> None:
    edit = ("verify:", "verify:\n  quality: {clip: 0.01, clip_model: clip, fid: 1, features: clip}")
    (found,) = plan_of(tmp_path, (edit[0], edit[1].replace("fid: 1,", "fid: 1.0,"))).judges
    assert found.name == "clip"


@pytest.mark.parametrize(
    ("judge", "words", "expected"),
    [
        ("clip", "{clop: {}}", "judges.clop: expected 'embedded', 'nudenet', 'q16' or 'clip'"),
        ("clip", "{embedded: {}}", "judges.embedded: the embedded judge has no settings"),
        ("clip", "{nudenet: {}}", "judges.nudenet: no concept, retention group or metric uses"),
        ("clip", "{clip: {threshhold: 0.5}}", "unknown key 'threshhold'; did you mean 'threshold'"),
        ("clip", "{clip: {weights: a/b}}", "judges.clip.weights: 'a/b' is a hub id, so revision"),
        ("clip", "{clip: {weights: ./a}}", "judges.clip.weights: no such file or folder"),
        ("clip", "{clip: {calibration: c.json}}", "judges.clip.calibration: no such file"),
        (
            "clip",
            "{clip: {template: a photo}}",
            "judges.clip.template: must name {label}, got text",
        ),
        ("clip", "{clip: {contrast: [a girl]}}", "texts about minors are refused"),
        ("nudenet", "{nudenet: {rule: rce}}", "judges.nudenet.rule: expected 'core-5', 'i2p'"),
        ("q16", "{q16: {prompts: p.npy}}", "judges.q16.prompts: no such file"),
    ],
)
def test_refusals(tmp_path: Path, judge: str, words: str, expected: str) -> None:
    found = findings(tmp_path, *judges(words, judge))
    assert any(expected in finding for finding in found), found


@pytest.mark.parametrize(
    ("judge", "label", "expected"),
    [
        ("nudenet", "nudty", "judge 'nudenet' has no label 'nudty'; did you mean 'nudity'?"),
        ("q16", "harm", "judge 'q16' has no label 'harm'; it has 'inappropriate' alone: docs/"),
        (
            "nudenet",
            "a, b, c, d",
            "concepts.0.labels: judge 'nudenet' has no label for 4 texts ('a', ...); it has "
            "'nudity' and 18 classes: docs/judges.md",
        ),
    ],
)
def test_labels_are_checked_before_the_judge_is_there(
    tmp_path: Path, judge: str, label: str, expected: str
) -> None:
    edit = ("  - name: knife\n", f"  - name: knife\n    judge: {judge}\n    labels: [{label}]\n")
    (found,) = findings(tmp_path, edit)
    assert expected in found
