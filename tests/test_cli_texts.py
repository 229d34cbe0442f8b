"""Names, prompts and paths are shown as they are written: brackets in them are no markup."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from policy_examples import plan_of
from rich.console import Console

from safediff.cli.plan import plan
from safediff.cli.progress import RichUi
from safediff.gate.verdict import Verdict
from safediff.policy import load
from safediff.report.several import Line, render_several

TEXTS = ["'prompts [v2].csv'", "a cat [/b]", "a [bold]cat[/bold] :smile:"]


@pytest.mark.parametrize("text", TEXTS)
def test_progress_says_texts_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with RichUi() as ui:
        ui.say(text)
        ui.task(text, 1).advance(1, text)
    assert capsys.readouterr().err.splitlines() == [text, f"{text}: 1/1 {text}"]


@pytest.mark.parametrize("text", TEXTS)
def test_bars_are_drawn_as_they_are(text: str) -> None:
    ui = RichUi()
    ui.task(text, 2).advance(1, text)
    console = Console(width=200, record=True, file=StringIO())
    console.print(ui.progress.make_tasks_table(ui.progress.tasks))
    assert console.export_text().count(text) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_the_note_on_a_policy_is_shown_as_it_is(text: str) -> None:
    console = Console(width=140, record=True, file=StringIO())
    console.print(render_several([Line("small", Verdict.INCONCLUSIVE, (), text)]))
    assert text in console.export_text()


@pytest.mark.parametrize("text", TEXTS)
def test_a_plan_shows_what_is_erased_as_it_is(
    tmp_path: Path,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Judges other than the embedded one know any words."""
    known = plan_of(tmp_path)
    concept = replace(known.concepts[0], erase=(text,))
    monkeypatch.setattr(load, "load_plan", lambda _: replace(known, concepts=(concept,)))
    plan(tmp_path / "p.yaml", json_=False, compare=False)
    assert text in capsys.readouterr().out
