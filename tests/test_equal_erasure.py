"""The table of passes to equal erasure: which checkpoints it takes, and when it has nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import benchmark_script

bench = benchmark_script("equal_erasure")


def curve(rate: float, *points: tuple[int, float, float], seed: int = 2000) -> dict[str, Any]:
    """Of (passes, left by the teacher, left by the student)."""

    def role(left: float) -> dict[str, Any]:
        return {
            "erasure/all": {"estimate": left, "upper": left, "n": 128},
            "retention/near neighbours": {"estimate": 1 - left / 10, "lower": 0.8, "n": 80},
        }

    return {
        "policy": "demo",
        "picture_seed": seed,
        "settings": {"learning_rate": rate},
        "points": [
            {"step": passes // 10, "passes": passes, "teacher": role(t), "student": role(s)}
            for passes, t, s in points
        ],
    }


OURS = curve(0.004, (100, 0.6, 0.1), (200, 0.28, 0.2), (400, 0.0, 0.0))
SLOW = curve(1e-5, (1000, 1.0, 0.95), (4000, 1.0, 0.9))
TUNED = curve(1e-3, (1000, 0.9, 0.5), (2000, 0.4, 0.3), (4000, 0.2, 0.2))


def test_the_first_checkpoint_counts_by_our_teacher_and_their_better_one() -> None:
    row = bench.at_level(0.3, OURS, [SLOW, TUNED])
    assert row is not None
    assert (row["ours"]["passes"], row["ours"]["role"]) == (200, "teacher")
    assert (row["reference"]["passes"], row["reference"]["role"]) == (2000, "student")
    assert row["reference"]["learning_rate"] == 1e-3
    assert row["ratio"] == 10.0


def test_what_draws_nothing_any_more_does_not_count_as_keeping() -> None:
    ruined = curve(1e-2, (500, 0.2, 0.1))
    for role in ("teacher", "student"):
        ruined["points"][0][role]["retention/near neighbours"]["estimate"] = 0.1
    row = bench.at_level(0.3, OURS, [ruined, TUNED])
    assert row is not None
    assert row["reference"]["passes"] == 500
    assert row["reference_keeping"]["passes"] == 2000
    assert bench.at_level(0.3, OURS, [ruined])["reference_keeping"] is None


def test_a_whole_run_is_held_against_what_leaves_no_more() -> None:
    teacher, student = bench.at_end(SLOW, OURS)
    assert (teacher["left"], teacher["ours"], teacher["ratio"]) == (1.0, None, None)
    assert (student["left"], student["ours"]["passes"], student["ratio"]) == (0.9, 100, 40.0)
    spotless = curve(1e-3, (4000, 0.0, 0.0))
    above = curve(0.004, (100, 0.6, 0.1))
    assert [row["ratio"] for row in bench.at_end(spotless, above)] == [None, None]


def test_a_level_that_one_never_reaches_is_no_row() -> None:
    assert bench.at_level(0.1, OURS, [SLOW, TUNED]) is None
    assert bench.at_level(0.1, TUNED, [OURS]) is None
    assert bench.at_level(0.9, OURS, [SLOW]) is not None


def files(folder: Path, **curves: dict[str, Any]) -> list[str]:
    for name, found in curves.items():
        (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    names = [str(folder / f"{name}.json") for name in curves]
    return ["x", "--ours", names[0], "--reference", *names[1:], "--out", str(folder / "out.json")]


def test_it_writes_and_prints_all_levels_that_both_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", files(tmp_path, ours=OURS, slow=SLOW, tuned=TUNED))
    bench.main()
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row["level"] for row in result["levels"]] == [0.9, 0.5, 0.3]
    assert [row["learning_rate"] for row in result["reference"]] == [1e-5, 1e-3]
    assert (
        "| 0.3 | 2,000 | 0.001 | 0.970 | 200 | 0.972 | 10.0 x | 2,000 |" in capsys.readouterr().out
    )


def test_other_pictures_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = curve(1e-5, (1000, 1.0, 0.95), seed=1)
    monkeypatch.setattr(sys, "argv", files(tmp_path, ours=OURS, other=other))
    with pytest.raises(SystemExit):
        bench.main()
    assert "other.json: picture_seed is 1, not as in --ours" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
