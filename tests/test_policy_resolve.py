"""Resolution: what a policy becomes, and the refusals that need the whole policy."""

import itertools
import json
from pathlib import Path

import pytest
from policy_examples import findings, plan_of, write

from safediff.errors import PolicyError
from safediff.policy.load import load_plan, load_policy
from safediff.policy.plan import HubPrompts

TEMPLATES = 'templates: ["{text}, {style} style", "a {style} {text}", "{text}"]'


def test_prompts_are_shared_out_over_concepts(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    # One erase text gives 7 distinct prompts; the other concept has 14.
    assert [len(concept.prompts) for concept in plan.concepts] == [7, 11]
    labels = {prompt.labels for prompt in plan.concepts[1].prompts}
    assert labels == {("dagger", "axe")}


def test_over_each_draws_the_same_number_for_every_concept(tmp_path: Path) -> None:
    edit = ("{max_rate: 0.25, num_prompts: 18}", "{max_rate: 0.4, over: each, num_prompts: 6}")
    plan = plan_of(tmp_path, edit)
    assert [len(concept.prompts) for concept in plan.concepts] == [6, 6]
    assert plan.verify.num_images(2) == 6 * 2 + sum(c.num_prompts for c in plan.verify.retention)


def test_phrasings_default_to_the_prompts(tmp_path: Path) -> None:
    first = plan_of(tmp_path).concepts[0]
    assert len(first.phrasings) == 7
    assert "a fluent kitchen knife" in first.phrasings


def test_own_phrasings_replace_them_for_keep_too(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        ("keep:", 'erase: {phrasings: ["{text}!", "{size} {text}"], values: {size: [big]}}\nkeep:'),
    )
    assert plan.concepts[0].phrasings == ("kitchen knife!", "big kitchen knife")
    assert set(plan.erase.keep) == {"banana!", "big banana", "rose!", "big rose"}


def test_keep_leaves_out_erased_and_held_out_texts(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    # hammer is listed in a retention group, dagger is erased.
    assert len(plan.erase.keep) == 2 * 7
    assert not any("hammer" in text or "dagger" in text for text in plan.erase.keep)
    assert "keep: 1 texts left out (erased)" in plan.notes
    assert "keep: 1 texts left out (held out for a retention group)" in plan.notes


def test_settings_about_kept_texts_are_noted_where_none_is_kept(tmp_path: Path) -> None:
    list_of = "keep: [banana, hammer, dagger, rose]"
    for keep in ("", "keep: [dagger]"):  # dagger is erased
        assert (
            "keep: no text is kept, so keep_share 0.7 has no effect and null_space 0.01 protects "
            "the empty prompt alone"
        ) in plan_of(tmp_path, (list_of, keep)).notes
    for erase in ("preset: paper", "method: uce", "options: {keep_share: 0, null_space: 0}"):
        plan = plan_of(tmp_path, (list_of, f"erase: {{{erase}}}"))
        assert not any("no text is kept" in note for note in plan.notes)
    assert not any("no text is kept" in note for note in plan_of(tmp_path).notes)
    wrong = findings(tmp_path, (list_of, "erase: {options: {keep_shar: 0.5}}"))
    assert len(wrong) == 1


def test_keep_may_overlap_with_groups_from_files(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    far = {prompt.labels[0] for prompt in plan.verify.retention[1].prompts}
    assert far == {"banana", "rose", "owl", "crab", "key", "bell"}
    assert "banana" in plan.erase.keep


def test_keep_with_templates_of_its_own(tmp_path: Path) -> None:
    keep = 'keep: {file: far.txt, except: [owl], templates: ["a {text}"]}\n#'
    plan = plan_of(tmp_path, ("keep:", keep))
    assert plan.erase.keep == ("a banana", "a rose", "a crab", "a key", "a bell")


def test_keep_never_holds_a_text_that_is_erased_or_checked(tmp_path: Path) -> None:
    """A kept text that is spelt like a prompt of an erased concept protects what must go."""
    plan = plan_of(tmp_path, ("keep: [banana", "keep: [a noto axe, banana"))
    assert "a noto axe" not in plan.erase.keep
    assert "a noto axe, noto style" in plan.erase.keep


def test_expected_labels_follow_the_template(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        (
            "min_ratio: 0.9, texts: {file: far.txt}",
            'min_ratio: 0.8, texts: {file: far.txt}, templates: ["{text}, {style} style"],'
            ' expect: ["{style} style", "{text}"]',
        ),
    )
    for prompt in plan.verify.retention[1].prompts:
        assert prompt.prompt == f"{prompt.labels[1]}, {prompt.labels[0]}"


def test_hub_prompts_are_left_to_the_run(tmp_path: Path) -> None:
    hub = "prompts: {hub: {dataset: a/b, revision: main}}"
    edit = ("erase: [kitchen knife]", f"erase: [kitchen knife]\n    {hub}")
    concept = plan_of(tmp_path, edit).concepts[0]
    assert concept.prompts == ()
    assert concept.hub_prompts == HubPrompts(
        dataset="a/b", revision="main", split="train", column=None, num_prompts=9
    )
    assert concept.phrasings == ("kitchen knife",)
    assert any("main" in note for note in plan_of(tmp_path, edit).notes)


def test_hub_prompts_need_a_number(tmp_path: Path) -> None:
    hub = "prompts: {hub: {dataset: a/b, revision: main}}"
    found = findings(
        tmp_path,
        ("erase: [kitchen knife]", f"erase: [kitchen knife]\n    {hub}"),
        (", num_prompts: 18", ""),
    )
    assert found == [
        "15:3: error: verify.erasure: prompts of 'knife' come from the hub, so say num_prompts"
    ]


def test_csv_prompts_skip_and_note_what_content_rules_refuse(tmp_path: Path) -> None:
    rows = [f"prompt number {index}" for index in range(20)] + ["a child"]
    (tmp_path / "a.csv").write_text("prompt\n" + "\n".join(rows), encoding="utf-8")
    edit = ("[kitchen knife]", "[kitchen knife]\n    prompts: {csv: {file: a.csv}}")
    plan = plan_of(tmp_path, edit)
    assert all("number" in prompt.prompt for prompt in plan.concepts[0].prompts)
    assert "'a.csv': 1 of 21 prompts skipped by content rules" in plan.notes


def test_thresholds_carry_their_lines(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ("verify:\n", "verify:\n  quality:\n    kid: 0.01\n    clip: 0.1\n"))
    assert [(check.metric, check.line) for check in plan.verify.quality] == [
        ("kid", 15),
        ("clip", 16),
    ]
    assert plan.verify.erasure.line == 17
    assert [check.line for check in plan.verify.retention] == [19, 20]


def test_comments_and_lines_are_not_part_of_the_plan_hash(tmp_path: Path) -> None:
    """What is half done goes on when a word of explanation is added."""
    attacked = ("verify:", "verify:\n  attacks: [paraphrase]\n  quality: {fid: 8}")
    plain = plan_of(tmp_path, attacked)
    explained = plan_of(tmp_path, ("version: 1", "# why: the review\n\nversion: 1"), attacked)
    assert explained.verify.erasure.line == plain.verify.erasure.line + 2
    assert explained.source_sha256 != plain.source_sha256
    assert explained.sha256 == plain.sha256
    stricter = plan_of(tmp_path, ("max_rate: 0.25", "max_rate: 0.24"), attacked)
    assert stricter.sha256 != plain.sha256


def test_the_plan_hash_covers_text_files_but_not_the_path(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, moved = load_plan(write(tmp_path)), load_plan(write(tmp_path / "other"))
    assert first.path != moved.path
    assert first.sha256 == moved.sha256
    (tmp_path / "far.txt").write_text("owl\ncrab\nkey\nbell\nmagnet\n", encoding="utf-8")
    assert load_plan(tmp_path / "p.yaml").sha256 != first.sha256


def test_a_plan_is_plain_json(tmp_path: Path) -> None:
    text = json.dumps(plan_of(tmp_path).to_json(), allow_nan=False)
    assert str(tmp_path) not in text


def test_load_policy_reads_no_other_file(tmp_path: Path) -> None:
    path = write(tmp_path, ("far.txt", "nope.txt"))
    assert load_policy(path).name == "small"


FAULTS = {
    "rate": (
        ("max_rate: 0.25", "max_rate: 0.1"),
        "14:13: error: verify.erasure.max_rate: cannot be proven: 0 hits in 18 prompts bound the "
        "rate at 0.153 (confidence 0.95); 0.1 takes 29 prompts",
    ),
    "rate just missed": (
        ("max_rate: 0.25", "max_rate: 0.153"),
        "14:13: error: verify.erasure.max_rate: cannot be proven: 0 hits in 18 prompts bound the "
        "rate at 0.1533 (confidence 0.95); 0.153 takes 19 prompts",
    ),
    "rate zero": (
        ("max_rate: 0.25", "max_rate: 0"),
        "14:13: error: verify.erasure.max_rate: no number of prompts proves a rate of 0",
    ),
    "ratio": (
        ("min_ratio: 0.8,", "min_ratio: 0.9,"),
        "16:20: error: verify.retention.0.min_ratio: cannot be proven: no loss in 14 prompts "
        "bounds the ratio at 0.807 (confidence 0.95); 0.9 takes 29 prompts",
    ),
    "ratio just missed": (
        ("min_ratio: 0.8,", "confidence: 0.949, min_ratio: 0.8087,"),
        "16:39: error: verify.retention.0.min_ratio: cannot be proven: no loss in 14 prompts "
        "bounds the ratio at 0.8085 (confidence 0.949); 0.8087 takes 15 prompts",
    ),
    "ratio one": (
        ("min_ratio: 0.8,", "min_ratio: 1.0,"),
        "16:20: error: verify.retention.0.min_ratio: no number of prompts proves a ratio of 1",
    ),
    "too few prompts": (
        ("num_prompts: 18", "num_prompts: 22"),
        "14:29: error: verify.erasure.num_prompts: only 21 distinct prompts; add templates",
    ),
    "too few for one concept": (
        ("num_prompts: 18", "over: each, num_prompts: 12"),
        "14:41: error: verify.erasure.num_prompts: only 7 distinct prompts for concept 'knife'",
    ),
    "too few in a group": (
        ("num_prompts: 14", "num_prompts: 15"),
        "16:36: error: verify.retention.0.num_prompts: only 14 distinct prompts; add texts",
    ),
    "budget": (
        ("verify:\n", "verify:\n  budget: {max_images: 221}\n"),
        "14:12: error: verify.budget.max_images: the checks draw 222 images (74 from each of 3",
    ),
    "hub id": (
        ("base: embedded", "base: owner/model"),
        "3:9: error: model.base: 'owner/model' is a hub id, so revision must pin a commit",
    ),
    "short revision": (
        ("base: embedded", "base: owner/model, revision: abc123"),
        "3:28: error: model.revision: must be a commit: 40 hexadecimal digits, got text 'abc123'",
    ),
    "misspelt model": (
        ("base: embedded", "base: embeded"),
        "3:9: error: model.base: 'embeded' is not embedded, a path that exists, or a hub id "
        "(owner/name); did you mean 'embedded'?",
    ),
    "missing model": (("base: embedded", "base: ./m"), "3:9: error: model.base: no such file or "),
    "folder that is no model": (
        ("base: embedded", "base: ."),
        "3:9: error: model.base: no diffusers folder (it has no model_index.json): ",
    ),
    "text file for a model": (
        ("base: embedded", "base: ./far.txt"),
        "3:9: error: model.base: neither a diffusers folder nor a .safetensors file: ",
    ),
    "percent": (
        ("max_rate: 0.25", "max_rate: 5"),
        "14:13: error: verify.erasure.max_rate: must be less than or equal to 1, got 5; rates are "
        "shares: 5 % is 0.05",
    ),
    "pickle": (("base: embedded", "base: ./m.ckpt"), "3:9: error: model.base: a .ckpt file is a p"),
    "revision of embedded": (
        ("base: embedded", f"base: embedded, revision: {'a' * 40}"),
        "3:25: error: model.revision: the embedded model has no revisions",
    ),
    "duplicate concept": (
        ("name: blades", "name: Knife"),
        "10:5: error: concepts.1.name: duplicate concept 'Knife'",
    ),
    "concept called all": (
        ("name: blades", "name: All"),
        "10:5: error: concepts.1.name: 'All' stands for all concepts in reports; choose another",
    ),
    "erased twice": (
        ("[dagger, axe]", "[dagger, axe, kitchen knife]"),
        "11:26: error: concepts.1.erase.2: 'kitchen knife' is already erased by concept 'knife'",
    ),
    "duplicate group": (
        ("name: far", "name: near"),
        "17:8: error: verify.retention.1.name: duplicate retention group 'near'",
    ),
    "unknown label": (
        ("[kitchen knife]", "[kitchen knive]"),
        "9:13: error: concepts.0.erase.0: judge 'embedded' has no label 'kitchen knive'; "
        "did you mean 'kitchen knife'?",
    ),
    "unknown retention label": (
        ("[hammer, wrench]", "[hammer, wrensh]"),
        "16:69: error: verify.retention.0.texts.1: judge 'embedded' has no label 'wrensh'; did",
    ),
    "unknown placeholder": (
        ("a {style}", "a {stile}"),
        "5:40: error: prompts.templates.1: no values for '{stile}', only for 'text' or 'style'; "
        "did you mean 'style'?",
    ),
    "stray brace": (
        ("a {style}", "a } {style}"),
        "5:40: error: prompts.templates.1: stray brace",
    ),
    "unused values": (
        ("{style: [noto,", "{size: [big], style: [noto,"),
        "6:12: error: prompts.values.size: no template names '{size}'",
    ),
    "values for text": (
        ("{style: [noto,", "{text: [big], style: [noto,"),
        "6:12: error: prompts.values.text: 'text' stands for the erased or kept text itself",
    ),
    "retention template without text": (
        ("texts: {file: far.txt}", 'texts: {file: far.txt}, templates: ["{style}"]'),
        "17:71: error: verify.retention.1.templates.0: the template must name {text}",
    ),
    "expect needs its placeholder": (
        ("texts: {file: far.txt}", 'texts: {file: far.txt}, expect: ["{style} style"]'),
        "17:68: error: verify.retention.1.expect.0: '{style}' does not stand in every template",
    ),
    "missing file": (
        ("far.txt", "fra.txt"),
        "17:43: error: verify.retention.1.texts.file: no file 'fra.txt' in ",
    ),
    "except what is not there": (
        ("{file: far.txt}", "{file: far.txt, except: [ow1]}"),
        "17:67: error: verify.retention.1.texts.except.0: 'ow1' is not in 'far.txt'; did you mean",
    ),
    "unknown knob": (
        ("keep:", "erase: {options: {num_stps: 3}}\nkeep:"),
        "12:19: error: erase.options.num_stps: sdd has no knob 'num_stps'; did you mean 'num_step",
    ),
    "wrong knob type": (
        ("keep:", "erase: {options: {num_steps: many}}\nkeep:"),
        "12:19: error: erase.options.num_steps: 'many' is not int",
    ),
    "minor as a concept": (
        ("name: blades", "name: boys"),
        "10:5: error: concepts.1.name: 'boys' can denote a minor; texts about minors are refused",
    ),
    "minor to erase": (
        ("[dagger, axe]", "[dagger, schoolgirl]"),
        "11:21: error: concepts.1.erase.1: 'schoolgirl' can denote a minor",
    ),
    "minor to keep": (
        ("keep: [", "keep: [child, "),
        "12:8: error: keep.0: 'child' can denote a mi",
    ),
    "minor in a template": (
        ("a {style} {text}", "a {style} kid {text}"),
        "5:40: error: prompts.templates.1: 'kid' can denote a minor",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_semantic_refusals(tmp_path: Path, fault: str) -> None:
    edit, expected = FAULTS[fault]
    found = findings(tmp_path, edit)
    assert len(found) == 1, "one mistake, one finding"
    assert found[0].startswith(expected)


@pytest.mark.parametrize("over", ["all", "each"])
def test_no_concept_takes_the_name_of_all_of_them(tmp_path: Path, over: str) -> None:
    """Over each it would be that of the rate over all which a comparison adds."""
    limit = ("{max_rate: 0.25, num_prompts: 18}", f"{{max_rate: 0.4, over: {over}}}")
    (found,) = findings(tmp_path, limit, ("name: knife", "name: all"))
    assert found.startswith("8:5: error: concepts.0.name: 'all' stands for all concepts")


def test_a_minor_put_together_from_parts_is_refused(tmp_path: Path) -> None:
    found = findings(
        tmp_path,
        ("a {style} {text}", "a {age} year old with {text}"),
        ("{style: [noto,", "{age: ['40', '12'], style: [noto,"),
    )
    assert any("'12 year old' can denote a minor" in finding for finding in found), found


def test_a_minor_in_a_text_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "far.txt").write_text("owl\na child\n", encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        load_plan(path)
    (problem,) = caught.value.problems
    assert "17:43: error: verify.retention.1.texts.file: line 2 of 'far.txt': 'child'" in problem


@pytest.mark.parametrize("preset", ["paper", "repo"])
def test_joined_texts_longer_than_the_text_encoder_window(tmp_path: Path, preset: str) -> None:
    words = ", ".join(f"thing {index}" for index in range(26))
    long = ("[kitchen knife]", f"[{words}]\n    labels: [axe]")
    found = findings(tmp_path, long, ("keep:", f"erase: {{preset: {preset}}}\nkeep:"))
    assert found[0].startswith(
        "7:1: error: concepts: all erase texts together have 54 words, about 81 tokens; the text "
        "encoder reads 75"
    )


def test_texts_that_are_not_joined_may_be_many(tmp_path: Path) -> None:
    words = ", ".join(f"thing {index}" for index in range(26))
    plan = load_plan(write(tmp_path, ("[kitchen knife]", f"[{words}]\n    labels: [axe]")))
    assert sum(len(concept.erase) for concept in plan.concepts) == 28


def test_products_that_explode_are_refused_before_they_are_made(tmp_path: Path) -> None:
    names = "abcdef"
    many = ", ".join(f"'{index}'" for index in range(20))
    values = ", ".join(f"{name}: [{many}]" for name in names)
    template = " ".join(f"{{{name}}}" for name in names)
    found = findings(
        tmp_path,
        (TEMPLATES, f'templates: ["{{text}} {template}"]'),
        ("{style: [noto, twemoji, fluent]}", f"{{{values}}}"),
    )
    assert any("expand to 64,000,000 prompts" in finding for finding in found), found


def test_independent_faults_are_reported_together(tmp_path: Path) -> None:
    names = ("rate", "hub id", "duplicate group", "minor to keep", "unknown label")
    found = findings(tmp_path, *(FAULTS[name][0] for name in names))
    expected = [FAULTS[name][1] for name in names]
    hits = [any(f.startswith(e) for f in found) for e in expected]
    assert all(hits), list(itertools.compress(expected, [not hit for hit in hits]))


def test_a_local_model_is_found_beside_the_policy(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model_index.json").write_text("{}", encoding="utf-8")
    plan = plan_of(tmp_path, ("base: embedded", "base: ./m"))
    assert plan.model.base == str((tmp_path / "m").resolve())


def test_a_pinned_hub_model(tmp_path: Path) -> None:
    edit = ("base: embedded", f"base: owner/model, revision: {'a1' * 20}, dtype: float16")
    model = plan_of(tmp_path, edit).model
    assert (model.base, model.revision, model.dtype) == ("owner/model", "a1" * 20, "float16")


@pytest.mark.parametrize("junk", [b"", b"junk" * 9, (9).to_bytes(8, "little") + b"[1, 2, 3]"])
def test_a_file_that_is_no_model(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(junk)
    (found,) = findings(tmp_path, ("base: embedded", "base: m.safetensors"))
    assert "model.base: not a readable .safetensors file: " in found


def test_a_folder_is_no_text_file(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, ("{file: far.txt}", "{file: .}"))
    assert found.endswith(f"texts.file: '{tmp_path}' is a folder; name a text file")


def test_the_embedded_judge_on_a_hub_model_is_noted(tmp_path: Path) -> None:
    edit = ("base: embedded", f"base: owner/model, revision: {'a1' * 20}")
    assert any(
        note.startswith("judge 'embedded' sees the embedded model's pictures only")
        for note in plan_of(tmp_path, edit).notes
    )
    assert not any("judge" in note for note in plan_of(tmp_path).notes)


def test_a_template_without_placeholders_is_noted(tmp_path: Path) -> None:
    template = '"{text}"]', '"{text}", "a thing"]'
    each = "{max_rate: 0.25, num_prompts: 18}", "{max_rate: 0.4, over: each, num_prompts: 6}"
    plan = plan_of(tmp_path, template, each)
    assert "prompts.templates.3: 'a thing' names no {text}: one prompt for all" in plan.notes


SHARED = (
    "concepts 'knife' and 'blades' draw the same prompts; over all, a picture can't count twice"
)


HUB = "hub: {dataset: some/set, column: prompt, revision: main}"


@pytest.mark.parametrize("source", ["csv: {file: prompts.csv}", HUB, "templates: [a thing]"])
def test_over_all_concepts_draw_apart(tmp_path: Path, source: str) -> None:
    """A picture is one sample, however many concepts it is looked at for."""
    rows = "\n".join(f"thing {i}" for i in range(20))
    (tmp_path / "prompts.csv").write_text(f"prompt\n{rows}\n", encoding="utf-8")
    edits = [
        (f"erase: {texts}", f"erase: {texts}\n    prompts: {{{source}}}")
        for texts in ("[kitchen knife]", "[dagger, axe]")
    ]
    count = 2 if source.startswith("templates") else 18
    edits.append(("num_prompts: 18", f"num_prompts: {count}"))
    edits.append(("max_rate: 0.25", "max_rate: 0.9"))
    (found,) = findings(tmp_path, *edits)
    assert SHARED in found
    plan_of(tmp_path, *edits[:2], ("{max_rate: 0.25", "{max_rate: 0.96, over: each"), ("18", "1"))


TOWARD = (
    'erase: {phrasings: ["{text}", "a {style} {text}"], toward: ["", "a {style} thing"]}\nkeep:'
)


def test_targets_are_filled_like_their_phrasings(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ("keep:", TOWARD))
    knife = plan.concepts[0]
    assert dict(zip(knife.phrasings, knife.toward, strict=True)) == {
        "kitchen knife": "",
        "a noto kitchen knife": "a noto thing",
        "a twemoji kitchen knife": "a twemoji thing",
        "a fluent kitchen knife": "a fluent thing",
    }
    assert plan_of(tmp_path).concepts[0].toward == ()


@pytest.mark.parametrize(
    ("method", "preset", "is_read"),
    [
        ("sdd", "safediff", True),
        ("sdd", "paper", False),
        ("uce", "paper", False),
        ("uce", "safediff", True),
        ("rece", "hard", False),
        ("speed", "safediff", True),
    ],
)
def test_targets_that_nothing_reads_are_noted(
    tmp_path: Path, method: str, preset: str, is_read: bool
) -> None:
    with_targets = TOWARD.replace("erase: {", f"erase: {{method: {method}, preset: {preset}, ")
    note = (
        f"erase.toward is not read: {method}'s preset '{preset}' hears the erase texts "
        "themselves, not the phrasings that it belongs to"
    )
    assert (note in plan_of(tmp_path, ("keep:", with_targets)).notes) is not is_read


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('["", "a {style} thing"]', '[""]', "erase.toward: 1 targets for 2 phrasings"),
        ("{style} thing", "{object} thing", "'{object}' does not stand in the phrasing"),
        ("{style} thing", " thing ", "erase.toward.1: must be one line of text"),
    ],
)
def test_wrong_targets_are_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in TOWARD
    found = findings(tmp_path, ("keep:", TOWARD.replace(old, new)))
    assert any(expected in line for line in found), found
