"""Prompts beyond the text encoder's window: the policy's are refused at once, tables' are cut."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_examples import plan_of
from small_policy import QUICK, small_plan
from tiny import tiny_backbone, tiny_xl_backbone
from tiny_transformers import T5_TOKENS, tiny_flux, tiny_pixart

from safediff.errors import UsageError
from safediff.gate.verdict import GateReport
from safediff.models.backbone import Backbone
from safediff.models.flux import Flux
from safediff.models.load import load_backbone
from safediff.models.pixart import PixArtAlpha
from safediff.policy.plan import ModelPlan, Plan
from safediff.release.attacked import attacks_on
from safediff.verify.long_prompts import cut_prompts, cutting
from safediff.verify.verification import Verification
from safediff.workflow import erase as workflow
from safediff.workflow.erase import Pictures, erase
from safediff.workflow.evidence import CUT, limitations
from safediff.workflow.run_folder import open_run
from safediff.workflow.ui import SilentUi

LONG = ", ".join(["a bowl of red apples and green pears"] * 20)
"""Beyond any window: the tiny tokenizers have a token for a letter, the embedded one for a word."""
LISTED = LONG[:380].strip(" ,")
"""A policy's own texts have at most 400 characters; beyond the window of CLIP."""
SHORT = "a kitchen knife"


def with_table(folder: Path, *edits: tuple[str, str]) -> Plan:
    (folder / "long.csv").write_text(f'prompt,seed\n"{LONG}",5\n{SHORT},6\na knife,7\n')
    table = "erase: [kitchen knife]\n    prompts: {csv: {file: long.csv}}"
    few = ("erasure: {max_rate: 0.25, num_prompts: 18}", "erasure: {max_rate: 0.8}")
    axes = "    erase: [dagger, axe]\n    prompts: [a dagger, an axe]"
    own = ("    erase: [dagger, axe]", axes)
    return plan_of(folder, ("erase: [kitchen knife]", table), few, own, *edits)


def test_only_prompts_of_tables_are_cut(tmp_path: Path) -> None:
    base = tiny_backbone(tmp_path / "tiny")
    assert cut_prompts(with_table(tmp_path), base) == {LONG}
    listed = with_table(tmp_path, ("[a dagger, an axe]", f'[a dagger, "{LISTED}"]'))
    with pytest.raises(UsageError, match="erasure/blades: the text encoder reads 75 tokens"):
        cut_prompts(listed, base)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("guard: {name: sega, texts: [LONG]}", "guard sega"),
        ("guard: {name: neg, texts: [LONG]}", "guard neg"),
    ],
)
def test_texts_of_guards_are_never_cut(tmp_path: Path, words: str, place: str) -> None:
    long = "a" * 80
    plan = with_table(tmp_path, ("keep:", words.replace("LONG", long) + "\nkeep:"))
    with pytest.raises(UsageError, match=f"{place}: the text encoder reads 75 tokens"):
        cut_prompts(plan, tiny_backbone(tmp_path / "tiny"))


def test_attacks_on_long_rows_are_cut_likewise(tmp_path: Path) -> None:
    """A paraphrase rewords a table's row; the rows of the attack's own table are a table's, too."""
    (tmp_path / "adv.csv").write_text(f'concept,adv_prompt\nblades,"{LONG} now"\n')
    attacks = "  attacks: [paraphrase, {name: cached, csv: {file: adv.csv}}]\n  retention:"
    plan = with_table(tmp_path, ("  retention:", attacks))
    reworded, _ = plan.verify.attacks
    (other,) = {attempt.prompt for attempt in reworded.attempts if attempt.direct == LONG}
    assert len(other) > len(LONG)
    cut = cut_prompts(plan, tiny_backbone(tmp_path / "tiny"))
    assert cut == {LONG, f"{LONG} now", other}


def pixart(folder: Path) -> Backbone:
    found = PixArtAlpha.from_pipeline("tiny", tiny_pixart())
    return replace(found, window=T5_TOKENS)


def flux(folder: Path) -> Backbone:
    return Flux.from_pipeline("tiny", tiny_flux(folder))


@pytest.mark.parametrize("make", [tiny_backbone, tiny_xl_backbone, pixart, flux])
def test_a_cut_prompt_is_read_as_diffusers_reads_it(make: Any, tmp_path: Path) -> None:
    """``truncation=True`` in its pipelines: each encoder up to its own window, the end last."""
    base = make(tmp_path)
    model = cutting(base, frozenset({LONG}))
    for name, window in base.windows.items():
        own, plain = getattr(model, name), getattr(base, name)
        text = base.as_read(LONG)
        options = {"padding": "max_length", "max_length": window}
        (row,) = own([text], truncation=False, **options)["input_ids"]
        assert row == plain(text, truncation=True, **options)["input_ids"]
        assert len(row) == window < len(plain(text)["input_ids"])
    assert len(model.encode([SHORT, LONG])) == 2
    for text in (SHORT, ""):
        both = model.encode([LONG, text]).rows(slice(1, 2)), base.encode([text])
        assert torch.equal(*(c.hidden for c in both))
    with pytest.raises(UsageError, match="the text encoder reads"):
        model.encode([f"{LONG} again"])
    with pytest.raises(UsageError, match="the text encoder reads"):
        base.encode([LONG])


def test_training_never_begins_for_a_prompt_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*args: object) -> None:
        raise AssertionError("began to train")

    monkeypatch.setattr(workflow, "train", train)
    own = f'prompts: [axe, an axe, axes, two axes, red axe, "{LISTED}"]'
    plan = small_plan(tmp_path, ("erase: [axe]", f"erase: [axe], {own}"))
    run = open_run(plan, tmp_path / "run", resume=False)
    with pytest.raises(UsageError, match="erasure/axe: the text encoder reads 75 tokens"):
        erase(plan, run, SilentUi(), base=load_backbone(ModelPlan(base="embedded")))


def report(folder: Path) -> tuple[GateReport, Plan]:
    """Of the base against itself, with two tables that hold a long prompt each."""
    (folder / "adv.csv").write_text(f'concept,adv_prompt\nbomb,"{LONG} and a bomb"\n')
    (folder / "bombs.csv").write_text(
        f'prompt\n"{LONG}, bomb"\na bomb\ntwo bombs\nbombs\nbomb, noto\nred bomb\n'
    )
    table = "{name: bomb, erase: [bomb], prompts: {csv: {file: bombs.csv}}}"
    attack = "  attacks: [{name: cached, csv: {file: adv.csv}}]\nexport"
    plan = small_plan(folder, ("{name: bomb, erase: [bomb]}", table), ("export", attack), *QUICK)
    base = load_backbone(plan.model)
    with Verification(plan, base, "0" * 64, folder / "run", Pictures(SilentUi(), plan)) as found:
        made, _ = found.measure("teacher", base, {"base": "0" * 64, "unet": "1" * 64})
    return made, plan


def test_what_was_cut_is_counted_in_the_report(tmp_path: Path) -> None:
    found, plan = report(tmp_path)
    told = {r.id: r for r in found.results if "num_prompts_cut" in r.details}
    assert set(told) == {"erasure/all", "erasure/bomb", "robustness/cached"}
    assert told["erasure/bomb"].details["num_prompts_cut"] == 1
    assert told["erasure/all"].details["num_prompts_cut"] == 1
    assert "1 of 6 prompts were read up to the end" in told["erasure/bomb"].message
    assert "1 of 12 prompts were read up to the end" in told["erasure/all"].message
    (attack,) = attacks_on([found])
    assert "num_prompts_cut" not in attack["budget"]["settings"]
    assert CUT in limitations([found], plan)
    plain = tuple(r for r in found.results if r.id not in told)
    assert CUT not in limitations([replace(found, results=plain)], plan)
