"""The schema: what it refuses and how it says so; the committed JSON schema."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from policy_examples import POLICY, findings, plan_of

from safediff.erase.methods import ERASERS, METHODS
from safediff.policy.schema import policy_schema

SHIPPED = sorted(p for p in files("safediff.policies").iterdir() if p.name.endswith(".yaml"))
JUDGES = "'embedded', 'nudenet', 'q16' or 'clip'"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: small\n", "", "1:1: error: name: missing key 'name'"),
        ("name: small", "name: ''", "2:1: error: name: may hold small letters, digits, dots and"),
        ("version: 1", "version: 2", "1:1: error: version: this safediff reads version 1, got 2"),
        ("version: 1", "version: true", "1:1: error: version: expected a whole number, got true"),
        ("keep:", "kepp:", "12:1: error: kepp: unknown key 'kepp'; did you mean 'keep'?"),
        ("name: small", "name: 3", "2:1: error: name: expected text, got 3"),
        ("{base: embedded}", "embedded", "3:1: error: model: expected keys, got text 'embedded'"),
        ("[kitchen knife]", "kitchen knife", "9:5: error: concepts.0.erase: expected a list, got"),
        ("[kitchen knife]", "[]", "9:5: error: concepts.0.erase: must not be empty"),
        ("[kitchen knife]", "", "9:5: error: concepts.0.erase: expected a list, got nothing"),
        ("[kitchen knife]", "[' x']", "9:13: error: concepts.0.erase.0: must be one line of text"),
        (
            "name: knife",
            "name: knife\n    judge: nudnet",
            f"9:5: error: concepts.0.judge: expected {JUDGES}, got text 'nudnet'; "
            "did you mean 'nudenet'?",
        ),
        (
            "keep:",
            "erase: {method: ssd}\nkeep:",
            "12:9: error: erase.method: expected 'sdd', 'esd-x', 'esd-u', 'uce', 'rece' or "
            "'speed', got text 'ssd'; did you mean 'sdd'?",
        ),
        (
            "keep:",
            "erase: {preset: papr}\nkeep:",
            "12:9: error: erase.preset: sdd has no preset 'papr'; did you mean 'paper'?",
        ),
        (
            "keep:",
            "export: {targets: [onnx, trt]}\nkeep:",
            "12:10: error: export.targets: trt is no target of a policy: build it with safediff "
            "export RELEASE --trt",
        ),
        (
            "keep:",
            "export: {targets: [onnx, onnx]}\nkeep:",
            "12:10: error: export.targets: may hold 1 at most, got 2",
        ),
        (
            "0.25",
            "1",
            "14:13: error: verify.erasure.max_rate: any model keeps a limit of 1; rates are "
            "shares, so 1 % is 0.01",
        ),
        ("0.25", "1.5", "14:13: error: verify.erasure.max_rate: must be less than or equal to 1"),
        ("0.25", "'0.25'", "14:13: error: verify.erasure.max_rate: expected a number, got text"),
        ("18}", "0}", "14:29: error: verify.erasure.num_prompts: must be greater than or equal to"),
        ("18}", "18.0}", "14:29: error: verify.erasure.num_prompts: expected a whole number"),
        (
            "texts: [hammer, wrench]",
            "txts: [a]",
            "16:53: error: verify.retention.0.txts: unknown",
        ),
        ("{file: far.txt}", "{fil: far.txt}", "17:43: error: verify.retention.1.texts.fil: unknow"),
        ("keep: [", "keep: {texts: [a], file: b} #", "12:1: error: keep: give either file or text"),
        (
            'templates: ["{text}, {style} style", "a {style} {text}", "{text}"]',
            "templates: [x]\n  hub: {dataset: a/b, revision: main}",
            "4:1: error: prompts: give one of templates, csv, folder and hub, not",
        ),
    ],
)
def test_refusals(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = findings(tmp_path, (old, new))
    assert any(finding.startswith(expected) for finding in found), found


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("18}", "18, confidence: 0.5}", "erasure.confidence: must be greater than 0.5"),
        ("18}", "18, min_base_rate: 0}", "erasure.min_base_rate: must be greater than 0"),
        ("verify:", "verify:\n  collapse: {min_ratio: 0}", "collapse.min_ratio: must be greater"),
        ("judge: {", "judge: {min_sensitivity: 0, ", "min_sensitivity: must be greater"),
        ("min_specificity: 0.5", "min_specificity: 0", "min_specificity: must be greater"),
    ],
)
def test_a_premise_asks_for_something(tmp_path: Path, old: str, new: str, key: str) -> None:
    found = findings(tmp_path, (old, new))
    assert any(key in finding for finding in found), found


def test_all_problems_at_once_sorted_by_line(tmp_path: Path) -> None:
    edits = [
        ("version: 1", "version: 2"),
        ("{base: embedded}", "{base: embedded, dtyp: float32}"),
        ("[dagger, axe]", "3"),
        ("0.25", "yes"),
        ("texts: [hammer, wrench]", "text: [hammer]"),
    ]
    found = findings(tmp_path, *edits)
    lines = [int(finding.split(":")[0]) for finding in found]
    assert lines == sorted(lines)
    assert lines == [1, 3, 11, 14, 16]


def test_no_concepts(tmp_path: Path) -> None:
    text = POLICY[: POLICY.index("  - name: knife")] + POLICY[POLICY.index("keep:") :]
    found = findings(tmp_path, ("concepts:\n", "concepts: []\n"), text=text)
    assert "7:1: error: concepts: must not be empty" in found


def test_methods_are_those_that_exist() -> None:
    assert ERASERS.own == tuple(METHODS)


@pytest.mark.parametrize("method", list(METHODS))
def test_each_method_has_presets_of_its_own(tmp_path: Path, method: str) -> None:
    for preset in METHODS[method].presets:
        edit = ("keep:", f"erase: {{method: {method}, preset: {preset}}}\nkeep:")
        assert plan_of(tmp_path, edit).erase.preset == preset
    plan = plan_of(tmp_path, ("keep:", f"erase: {{method: {method}}}\nkeep:"))
    assert plan.erase.preset == next(iter(METHODS[method].presets))
    found = findings(tmp_path, ("keep:", f"erase: {{method: {method}, preset: none}}\nkeep:"))
    known = ", ".join(METHODS[method].presets)
    expected = f"error: erase.preset: {method} has no preset 'none'; use {known}"
    assert any(expected in line for line in found)


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert plan.erase.preset == "safediff"
    assert plan.verify.sampling.num_steps == 25
    assert plan.verify.retention[0].judge == "embedded"
    assert plan.export.targets == ("onnx",)
    assert plan.verify.max_images == plan.num_images


def test_committed_json_schema_is_current() -> None:
    committed = files("safediff.policies").joinpath("policy.schema.json").read_text("utf-8")
    assert json.loads(committed) == policy_schema(), (
        "run: safediff schema > policies/policy.schema.json"
    )


def test_json_schema_is_draft_7() -> None:
    schema = policy_schema()
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(schema)
    assert "prefixItems" not in json.dumps(schema)


@pytest.mark.parametrize("policy", SHIPPED, ids=lambda p: str(p.name))
def test_shipped_policies_validate_with_the_json_schema(policy: Any) -> None:
    text = policy.read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=policy.schema.json\n")
    jsonschema.validate(yaml.safe_load(text), policy_schema(), jsonschema.Draft7Validator)


def test_json_schema_refuses_unknown_keys() -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_rte"):
        jsonschema.validate(
            yaml.safe_load(POLICY.replace("max_rate", "max_rte")),
            policy_schema(),
            jsonschema.Draft7Validator,
        )
