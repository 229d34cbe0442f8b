"""Prompts of hub data sets, from a cache that a test lays out as the hub does."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from policy_examples import plan_of
from test_cli_verbs import Ran, here
from test_policy_rows import BENIGN, ROWS, SMALL, source

from safediff.errors import Inconclusive, UsageError
from safediff.judge.load import judge_requests
from safediff.policy.plan import HubPrompts, Plan
from safediff.verify.assignments import assignments, rows_of
from safediff.workflow.engine_gate import same_policy
from safediff.workflow.export_source import ExportSource
from safediff.workflow.hub_prompts import fetch, with_hub_prompts

__all__ = ["here"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds nothing, and no way to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def cache(hub: Path) -> Path:
    """One that holds one commit of some/prompts; the file of its rows."""
    place = hub / "datasets--some--prompts"
    (place / "snapshots" / COMMIT).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    table = place / "snapshots" / COMMIT / "benign.csv"
    table.write_text(BENIGN.read_text("utf-8"), "utf-8")
    return table


def planned(tmp_path: Path, dataset: str = "some/prompts", revision: str = "main") -> Plan:
    words = f"{{hub: {{dataset: {dataset}, revision: {revision}}}}}"
    numbers = ("erasure: {max_rate: 0.8}", "erasure: {max_rate: 0.8, over: each, num_prompts: 2}")
    return plan_of(tmp_path, source(words), *SMALL, numbers)


def test_prompts_and_commit_are_filled_in(tmp_path: Path, cache: Path) -> None:
    plan = with_hub_prompts(planned(tmp_path))
    concept = plan.concepts[0]
    by_text = {row.text: row for row in ROWS}
    assert len(concept.prompts) == 2
    for prompt in concept.prompts:
        row = by_text[prompt.prompt]
        assert (prompt.seed, prompt.guidance_scale) == (row.seed, row.guidance_scale)
        assert prompt.labels == ("kitchen knife",)
    assert concept.hub_prompts is not None
    assert concept.hub_prompts.revision == COMMIT
    assert "'some/prompts': 1 of 6 prompts skipped by content rules" in plan.notes
    asked = [item.draw.prompt for item in assignments(plan) if item.check == "erasure/knife"]
    assert asked == [prompt.prompt for prompt in concept.prompts]
    assert set(rows_of(plan)) <= set(asked)
    assert with_hub_prompts(planned(tmp_path, revision=COMMIT)).concepts == plan.concepts


def test_kept_prompts_come_from_the_hub_too(tmp_path: Path, cache: Path) -> None:
    near = "{name: near, min_ratio: 0.8, num_prompts: 14, texts: [hammer, wrench]}"
    hub = "hub: {dataset: some/prompts, revision: main}"
    group = f"{{name: near, min_ratio: 0.3, judge: clip, num_prompts: 3, {hub}}}"
    before = plan_of(tmp_path, (near, group))
    assert before.verify.retention[0].prompts == ()
    assert before.verify.num_images(2) == 18 + 3 + before.verify.retention[1].num_prompts
    plan = with_hub_prompts(before)
    check = plan.verify.retention[0]
    assert check.hub_prompts is not None
    assert check.hub_prompts.revision == COMMIT
    by_text = {row.text: row for row in ROWS}
    assert len(check.prompts) == 3
    for prompt in check.prompts:
        assert prompt.labels == (prompt.prompt,)
        assert prompt.seed == by_text[prompt.prompt].seed
    (request,) = [found for found in judge_requests(plan) if found.name == "clip"]
    assert set(request.labels) == {prompt.prompt for prompt in check.prompts}
    assert rows_of(plan)


def test_the_choice_follows_the_seed(tmp_path: Path, cache: Path) -> None:
    plan = planned(tmp_path)
    chosen = set()
    for seed in range(8):
        sampling = replace(plan.verify.sampling, seed=seed)
        again = replace(plan, verify=replace(plan.verify, sampling=sampling))
        chosen.add(tuple(p.prompt for p in with_hub_prompts(again).concepts[0].prompts))
    assert len(chosen) > 2


def test_a_gate_takes_a_policy_whose_prompts_are_fetched(tmp_path: Path, cache: Path) -> None:
    """Of a release that combines policies, each of them."""
    stored, other = with_hub_prompts(planned(tmp_path)).to_json(), {"name": "other"}
    policy = tmp_path / "p.yaml"
    for policies in ((stored,), (stored, other), (other, stored)):
        source = SimpleNamespace(path=tmp_path, policies=policies)
        assert same_policy(cast(ExportSource, source), policy).to_json() == stored
    source = SimpleNamespace(path=tmp_path, policies=(other,))
    with pytest.raises(UsageError, match="is not the policy that"):
        same_policy(cast(ExportSource, source), policy)


def test_over_all_no_two_concepts_draw_the_same_prompt(tmp_path: Path, cache: Path) -> None:
    """Only what was fetched shows it: a list beside a data set, or two data sets."""
    plan = planned(tmp_path)
    first, second = plan.concepts[:2]
    drawn = with_hub_prompts(plan).concepts[0].prompts
    shared = replace(second, prompts=(replace(drawn[0], labels=second.labels),))
    overlapping = replace(plan, concepts=(first, shared))
    with_hub_prompts(overlapping)  # over each
    erasure = replace(plan.verify.erasure, over="all")
    overlapping = replace(overlapping, verify=replace(plan.verify, erasure=erasure))
    with pytest.raises(UsageError, match="draw 1 of the same prompts; over all, a picture can't"):
        with_hub_prompts(overlapping)


def test_tables_are_fetched_whatever_the_case_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(*_: str, allow_patterns: list[str], **__: str) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    fetch("some/prompts", "main")
    names = ["TRAIN.CSV", "a/train.csv", "x.Parquet", "README.md", "picture.png"]
    assert [*filter_repo_objects(names, allow_patterns=asked)] == names[:3]


def test_plans_without_hub_prompts_stay_as_they_are(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert with_hub_prompts(plan) is plan


def edited(plan: Plan, **changes: object) -> Plan:
    hub = plan.concepts[0].hub_prompts
    assert isinstance(hub, HubPrompts)
    concept = replace(plan.concepts[0], hub_prompts=replace(hub, **changes))
    return replace(plan, concepts=(concept, *plan.concepts[1:]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"num_prompts": 5}, "4 distinct prompts may be drawn, 5 are asked for"),
        ({"split": "test"}, "no tables of the split 'test'"),
        ({"column": "promt"}, "no column 'promt'; did you mean 'prompt'"),
        ({"dataset": "some/other"}, "the prompts of some/other cannot be fetched"),
        ({"revision": "f" * 40}, "the prompts of some/prompts cannot be fetched"),
    ],
)
def test_what_cannot_be_had_is_inconclusive(
    tmp_path: Path, cache: Path, edit: dict[str, object], message: str
) -> None:
    with pytest.raises(Inconclusive, match=message) as caught:
        with_hub_prompts(edited(planned(tmp_path), **edit))
    assert "\n" not in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("i2p.yaml", "error: the prompts of AIML-TUDA/i2p cannot be fetched"),
        ("nsfw.yaml", "error: the CLIP weights openai/clip-vit-large-patch14 cannot be fetched"),
        ("artist.yaml", "error: the CLIP weights openai/clip-vit-large-patch14 cannot be fetched"),
    ],
)
def test_real_policies_end_undecided_at_what_is_missing(
    tmp_path: Path,
    hub: Path,
    here: Ran,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    message: str,
) -> None:
    """The embedded model, verified without hub, cache and judges."""
    monkeypatch.chdir(tmp_path)
    done = here("verify", "embedded", Path(__file__).parents[1] / "policies" / policy)
    assert done.returncode == 3
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 2
    assert lines[0].startswith(message)
    assert lines[1].startswith("  next: go online once")
