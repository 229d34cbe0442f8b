"""The journal survives a killed run."""

from dataclasses import replace
from pathlib import Path

import pytest

from safediff.errors import Inconclusive, UsageError
from safediff.gate.journal import Journal, JournalHeader, JournalRecord, read_journal

HEADER = JournalHeader(
    plan_sha256="ab" * 32, judges={"embedded": "12" * 32}, thresholds={"embedded": 0.5}
)


def record(index: int, **changes: object) -> JournalRecord:
    picture = JournalRecord(
        subject="teacher",
        check="erasure/axe",
        prompt="axe, noto style",
        index=index,
        seed=100 + index,
        status="ok",
        scores={"axe": 0.25},
        image_sha256="cd" * 32,
    )
    return replace(picture, **changes)  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.append([record(0), record(1)])
        journal.append([record(2, status="black", scores={}, image_sha256=None)])
    contents = read_journal(path)
    assert contents.header == HEADER
    assert [r.index for r in contents.records] == [0, 1, 2]
    assert contents.records[0] == record(0)
    assert not contents.torn


def test_batches_reach_the_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.append([record(0)])
        assert len(read_journal(path).records) == 1


@pytest.mark.parametrize("num_bytes", [1, 20, 60])
def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.append([record(0), record(1)])
    path.write_bytes(path.read_bytes()[:-num_bytes])
    torn = read_journal(path)
    assert torn.torn
    assert [r.index for r in torn.records] == [0]
    with Journal(path, HEADER) as journal:
        assert [r.index for r in journal.records] == [0]
        journal.append([record(1)])
    assert [r.index for r in read_journal(path).records] == [0, 1]
    assert not read_journal(path).torn


def test_a_torn_header_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"plan_sha')
    with Journal(path, HEADER) as journal:
        journal.append([record(0)])
    assert len(read_journal(path).records) == 1


def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.append([record(0), record(1)])
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:30]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UsageError, match=r"journal.jsonl:2: damaged"):
        read_journal(path)


def test_another_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, HEADER).close()
    with pytest.raises(UsageError, match="written for plan abababababab"):
        Journal(path, replace(HEADER, plan_sha256="0" * 64))


@pytest.mark.parametrize("text", ["", "[]\n", '{"type": "image"}\n', '{"type": "header"}\n'])
def test_what_is_no_journal_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match="journal"):
        read_journal(path)


def test_scores_must_be_finite(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "journal.jsonl", HEADER) as journal,
        pytest.raises(ValueError, match="JSON"),
    ):
        journal.append([record(0, scores={"axe": float("nan")})])


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="could not be written"):
        Journal(tmp_path / "missing" / "journal.jsonl", HEADER)
