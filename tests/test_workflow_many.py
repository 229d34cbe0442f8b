"""Several policies in one command: one base, a run each, the worst outcome, nothing lost."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_policy import QUICK, finished, safediff, small_plan, write_policy

from safediff.errors import Inconclusive, PolicyViolated, UsageError
from safediff.gate.verdict import Verdict, load_report
from safediff.policy.load import load_plans
from safediff.policy.plan import ModelPlan, Plan
from safediff.report.several import Line, render_several
from safediff.workflow import many
from safediff.workflow.erase import Outcome
from safediff.workflow.many import Attempt, by_model, end_of, erase_all
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.ui import SilentUi


def named(folder: Path, name: str, *edits: tuple[str, str]) -> Plan:
    return small_plan(folder / name, ("name: small", f"name: {name}"), *edits)


class Spoken(SilentUi):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Erasing and loading that note what they were asked for; ``broken`` names fail."""
    noted: dict[str, Any] = {"loaded": [], "erased": [], "broken": {}}

    def load(model: Any) -> Any:
        noted["loaded"].append(model.base)
        return object()

    def run(plan: Plan, run: RunFolder, ui: Any, **options: Any) -> Outcome:
        if error := noted["broken"].get(plan.name):
            raise error
        noted["erased"].append((plan.name, options["base"], run.path))
        return Outcome(run, list(finished().reports))

    monkeypatch.setattr(many, "load_backbone", load)
    monkeypatch.setattr(many, "erase", run)
    return noted


def test_the_base_is_loaded_once_and_each_has_its_folder(
    tmp_path: Path, fake: dict[str, Any]
) -> None:
    plans = [named(tmp_path, name) for name in ("a", "b", "c")]
    found = erase_all(plans, tmp_path / "out", False, SilentUi())
    assert fake["loaded"] == ["embedded"]
    assert [(name, path) for name, _, path in fake["erased"]] == [
        (name, tmp_path / "out" / name) for name in ("a", "b", "c")
    ]
    assert len({id(base) for _, base, _ in fake["erased"]}) == 1
    assert [a.exit_code for a in found] == [0, 0, 0]
    end_of(found)
    again = erase_all(plans, tmp_path / "out", True, SilentUi())
    assert [a.run.path for a in again] == [a.run.path for a in found]


def test_each_base_is_loaded_once_and_results_keep_the_order_given(
    tmp_path: Path, fake: dict[str, Any]
) -> None:
    plans = [named(tmp_path, name) for name in ("a", "b", "c", "d")]
    for index, base in ((1, "other"), (3, "third")):
        plans[index] = replace(plans[index], model=ModelPlan(base=base))
    assert by_model(plans) == [0, 2, 1, 3]
    fake["broken"] = {"b": Inconclusive("no disk"), "c": UsageError("no such text")}
    ui = Spoken()
    found = erase_all(plans, tmp_path / "out", False, ui)
    assert fake["loaded"] == ["embedded", "other", "third"]
    assert [name for name, *_ in fake["erased"]] == ["a", "d"]
    assert [a.plan.name for a in found] == ["a", "b", "c", "d"]
    assert [a.run.path.name for a in found] == ["a", "b", "c", "d"]
    assert [a.exit_code for a in found] == [0, 3, 2, 0]
    begun = [text.split(",")[0] for text in ui.said if text.startswith("policy ")]
    assert begun == [f"policy {n + 1} of 4: {name}" for n, name in enumerate("acbd")]
    with pytest.raises(Inconclusive, match="of 4 policies: b undecided; c not run"):
        end_of(found)


def test_a_base_that_cannot_be_loaded_is_tried_again_and_never_mistaken(
    tmp_path: Path, fake: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [named(tmp_path, name) for name in ("a", "b", "c")]
    plans[1] = replace(plans[1], model=ModelPlan(base="other"))
    load, failures = many.load_backbone, iter([Inconclusive("no disk")])

    def failing(model: ModelPlan) -> Any:
        if error := next(failures, None):
            raise error
        return load(model)

    monkeypatch.setattr(many, "load_backbone", failing)
    found = erase_all(plans, tmp_path / "out", False, SilentUi())
    assert [a.exit_code for a in found] == [3, 0, 0]
    assert fake["loaded"] == ["embedded", "other"]
    assert [name for name, *_ in fake["erased"]] == ["c", "b"]


def test_one_that_fails_loses_no_others(tmp_path: Path, fake: dict[str, Any]) -> None:
    fake["broken"] = {"a": Inconclusive("no disk"), "b": ValueError("a bug")}
    found = erase_all([named(tmp_path, n) for n in "abc"], tmp_path / "out", False, SilentUi())
    assert [name for name, *_ in fake["erased"]] == ["c"]
    assert [a.exit_code for a in found] == [3, 3, 0]
    assert "internal error: ValueError('a bug')" in str(found[1].error)
    with pytest.raises(Inconclusive, match="of 3 policies: a, b undecided"):
        end_of(found)


def test_a_gpu_that_is_too_small_is_told_of_its_policy(
    tmp_path: Path, fake: dict[str, Any]
) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory")
    fake["broken"] = {"a": full, "b": Inconclusive("no disk")}
    ui = Spoken()
    first, _ = erase_all([named(tmp_path, n) for n in "ab"], tmp_path / "out", False, ui)
    assert first.exit_code == 3
    assert "error: policy a: out of memory on the GPU" in ui.said


def test_alone_an_error_is_told_as_it_is(tmp_path: Path, fake: dict[str, Any]) -> None:
    fake["broken"] = {"a": ValueError("a bug")}
    with pytest.raises(ValueError, match="a bug"):
        erase_all([named(tmp_path, "a")], tmp_path / "out", False, SilentUi())


def test_no_model_is_loaded_where_a_folder_is_taken(tmp_path: Path, fake: dict[str, Any]) -> None:
    plans = [named(tmp_path, name) for name in ("a", "b")]
    (tmp_path / "out" / "b").mkdir(parents=True)
    (tmp_path / "out" / "b" / "plan.json").write_text("{}")
    with pytest.raises(UsageError, match="already holds a run"):
        erase_all(plans, tmp_path / "out", False, SilentUi())
    with pytest.raises(UsageError, match="two policies are named 'a'"):
        erase_all([plans[0], plans[0]], tmp_path / "other", False, SilentUi())
    assert fake["loaded"] == []


class Ended(Attempt):
    """An attempt with a given exit code."""

    @property
    def exit_code(self) -> int:
        return int(self.run.path.name)


@pytest.mark.parametrize(
    ("codes", "kind", "text"),
    [
        ((0, 2, 3, 1), PolicyViolated, "p1 not met; p3 undecided; p2 not run"),
        ((3, 2, 0), Inconclusive, "p3 undecided; p2 not run"),
        ((2, 0), UsageError, "p2 not run"),
    ],
)
def test_the_worst_outcome_ends_it(
    tmp_path: Path, codes: tuple[int, ...], kind: type[Exception], text: str
) -> None:
    attempts = [
        Ended(plan=named(tmp_path, f"p{c}"), run=RunFolder(Path(str(c))), seconds=1) for c in codes
    ]
    with pytest.raises(kind, match=f"of {len(codes)} policies: {text}$"):
        end_of(attempts)


def test_every_finding_of_every_policy_is_told_before_any_model(tmp_path: Path) -> None:
    good = write_policy(tmp_path / "good")
    bad = write_policy(tmp_path / "bad", ("max_rate: 0.5", "max_rte: 0.5"))
    done = safediff("erase", good, bad, tmp_path / "none.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown key 'max_rte'" in done.stderr
    assert "no such policy file" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert len(load_plans([good])) == 1


def test_the_summary_shows_what_has_least_to_spare() -> None:
    reports = finished().reports
    console = Console(width=140, record=True, file=StringIO())
    console.print(
        render_several(
            [
                Line("small", Verdict.PASS, reports, "runs/small"),
                Line("other", Verdict.INCONCLUSIVE, (), "no disk"),
            ]
        )
    )
    text = console.export_text()
    (row,) = [r for r in reports[0].results if r.id == "erasure/all"]
    assert f"{row.upper:.3f}" in text
    assert "no disk" in text
    assert "INCONCLUSIVE" in text.upper()


def test_two_policies_end_to_end(tmp_path: Path) -> None:
    one = write_policy(tmp_path / "one", ("name: small", "name: one"), *QUICK)
    other_seed = ("erase:\n  options", "erase:\n  seed: 1\n  options")
    two = write_policy(tmp_path / "two", ("name: small", "name: two"), other_seed, *QUICK)
    done = safediff("erase", one, two, "--out", tmp_path / "out", "-q")
    assert done.returncode in (1, 3), done.stderr  # one step draws noise
    assert done.stderr.startswith("error: of 2 policies: one")
    for name in ("one", "two"):
        folder = tmp_path / "out" / name
        assert (folder / "patch.safetensors").exists()
        assert load_report(folder / "verdict.teacher.json").policy_name == name
        assert str(folder) in done.stdout.replace("\n", "")
    # the first policy left the base as it was
    assert (tmp_path / "out" / "one" / "patch.safetensors").read_bytes() == (
        finished().run.path / "patch.safetensors"
    ).read_bytes()
