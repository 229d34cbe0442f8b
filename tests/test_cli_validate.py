"""``safediff validate`` and ``safediff schema``."""

import json
import subprocess
import sys
from pathlib import Path

from policy_examples import write

from safediff.policy.schema import policy_schema


def safediff(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "safediff.cli.app", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_valid_policy(tmp_path: Path) -> None:
    path = write(tmp_path)
    done = safediff("validate", str(path))
    assert done.returncode == 0
    assert done.stdout == f"{path}: valid, 2 concepts, 3 checks, 222 images\n"
    assert f"{path}: note: keep: 1 texts left out (erased)" in done.stderr


def test_every_finding_of_every_policy_is_printed(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    good = write(tmp_path / "a")
    first = write(tmp_path / "b", ("max_rate", "max_rte"), ("name: small", "name: 3"))
    second = write(tmp_path / "c", ("keep:", "kepp:"))
    missing = tmp_path / "nope.yaml"
    done = safediff("validate", *map(str, (first, missing, good, second)))
    assert done.returncode == 2
    assert done.stdout.startswith(f"{good}: valid")
    for line in (
        f"{first}:2:1: error: name: expected text, got 3",
        f"{first}:14:13: error: verify.erasure.max_rte: unknown key 'max_rte'; did you mean",
        f"{second}:12:1: error: kepp: unknown key 'kepp'; did you mean 'keep'?",
        f"error: no such policy file: {missing}\n  next: check the path\n",
    ):
        assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_attacks_with_a_limit_are_checks(tmp_path: Path) -> None:
    attacks = "  attacks: [{name: paraphrase, max_rate: 0.5}, closed-form]\n  retention:"
    done = safediff("validate", str(write(tmp_path, ("  retention:", attacks))))
    assert ", 4 checks, " in done.stdout, done.stderr


def test_a_waiver_that_is_over_is_noted(tmp_path: Path) -> None:
    waiver = "{check: 'retention/*', reason: still training, owner: me, expires: %s}"
    lines = "".join(f"\n  - {waiver % day}" for day in ("2020-01-01", "2999-12-31"))
    done = safediff("validate", str(write(tmp_path, ("keep:", f"waivers:{lines}\nkeep:"))))
    assert done.returncode == 0
    (note,) = [line for line in done.stderr.splitlines() if "note: waiver" in line]
    assert note.endswith("note: waiver of retention/* expired on 2020-01-01: it counts as FAIL")


def test_schema_prints_the_json_schema() -> None:
    done = safediff("schema")
    assert done.returncode == 0
    assert json.loads(done.stdout) == policy_schema()
