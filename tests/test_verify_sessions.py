"""Evidence keeps the date of its oldest picture, and says all it was measured with."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from audit_examples import read
from small_policy import finished, small_plan

from safediff.errors import UsageError
from safediff.release.audit import audit
from safediff.release.certificate import CERTIFICATE_NAME
from safediff.verify.sessions import SESSIONS_NAME, begin_session, read_sessions
from safediff.workflow.erase import erase
from safediff.workflow.run_folder import open_run
from safediff.workflow.ui import SilentUi

OLD = datetime.now(UTC).replace(microsecond=0) - timedelta(days=100)


def test_a_session_with_the_same_environment_adds_nothing(tmp_path: Path) -> None:
    begin_session(tmp_path, {"torch": "2.9"})
    first = (tmp_path / SESSIONS_NAME).read_text()
    begin_session(tmp_path, {"torch": "2.9"})
    assert (tmp_path / SESSIONS_NAME).read_text() == first
    begin_session(tmp_path, {"torch": "2.10", "device": "cpu"})
    found = read_sessions(tmp_path)
    assert found.started == json.loads(first)["started"]
    assert found.environment == {"torch": "2.9; 2.10", "device": "cpu"}


def test_pictures_without_a_list_are_as_old_as_their_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text("{}\n")
    os.utime(journal, (OLD.timestamp(), OLD.timestamp()))
    begin_session(tmp_path, {"torch": "2.9"})
    found = read_sessions(tmp_path)
    assert (datetime.fromisoformat(found.started), found.environment) == (OLD, {"torch": "2.9"})


@pytest.mark.parametrize("text", ["", "[]\n", '{"started": "yesterday", "environment": {}}\n'])
def test_a_damaged_list(tmp_path: Path, text: str) -> None:
    (tmp_path / SESSIONS_NAME).write_text(text)
    with pytest.raises(UsageError, match=r"sessions\.jsonl: (says of no|not a list of) session"):
        read_sessions(tmp_path)


def test_a_finished_run_that_is_taken_up_again_makes_nothing_younger(tmp_path: Path) -> None:
    plan, path = small_plan(tmp_path), tmp_path / "run"
    shutil.copytree(finished().run.path, path)
    row = json.loads((path / SESSIONS_NAME).read_text())
    row["started"], row["environment"]["numpy"] = OLD.isoformat(), "1.0"
    (path / SESSIONS_NAME).write_text(json.dumps(row) + "\n")
    outcome = erase(plan, open_run(plan, path, resume=True), SilentUi())
    assert outcome.released
    certificate = read(path / "release")
    assert certificate["statement"].endswith(f" on {OLD.date()}.")
    expires = datetime.fromisoformat(certificate["expires_at"])
    assert expires == OLD + timedelta(days=180)
    assert {report["started"] for report in certificate["reports"]} == {OLD.isoformat()}
    was, now = certificate["environment"]["numpy"].split("; ")
    assert was == "1.0" != now
    file = path / "release" / CERTIFICATE_NAME
    found = audit(file, path / "release", None, expires - timedelta(days=1))
    assert found.problems == ()
    assert "expired" in audit(file, path / "release", None, expires + timedelta(1)).problems[0]
