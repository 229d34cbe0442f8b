"""The model card says what the certificate says."""

import re
from typing import Any

import yaml
from gate_examples import make_report, make_result
from release_examples import (
    ENGINE_FILE,
    PARITY_ROW,
    WEIGHTS_FILE,
    added_engine,
    attacked_evidence,
    guarded_evidence,
    make_evidence,
)

from safediff.gate.verdict import Threshold, Verdict
from safediff.release.card import model_card
from safediff.release.certificate import issue_certificate


def card(**changes: Any) -> str:
    return model_card(issue_certificate(make_evidence(**changes), [WEIGHTS_FILE, ENGINE_FILE]))


def front_matter(text: str) -> dict[str, Any]:
    start, matter, _ = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(matter)


def test_the_family_is_tagged_where_it_is_stable_diffusions() -> None:
    assert "stable-diffusion" in front_matter(card())["tags"]
    weights = {**WEIGHTS_FILE, "path": "transformer/diffusion_pytorch_model.safetensors"}
    other = model_card(issue_certificate(make_evidence(), [weights]))
    assert front_matter(other)["tags"] == ["concept-erasure", "safediff"]


def test_front_matter() -> None:
    matter = front_matter(card())
    assert matter["base_model"] == "CompVis/stable-diffusion-v1-4"
    assert matter["license"] == "creativeml-openrail-m"
    assert matter["pipeline_tag"] == "text-to-image"
    (entry,) = matter["model-index"]
    metrics = entry["results"][0]["metrics"]
    # not the row for information, not the one without an estimate
    assert [(m["name"], m["value"]) for m in metrics] == [
        ("erasure/all (teacher)", 0.012),
        ("erasure/all (onnx engine)", 0.012),
    ]


def test_a_base_that_is_not_on_the_hub_is_not_named_as_if_it_were() -> None:
    for base in ("embedded", "/data/models/sd"):
        known = make_evidence().base_model | {"id": base}
        assert "base_model" not in front_matter(card(base_model=known))


def test_results_table() -> None:
    text = card()
    header, *rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert header.count("|") == 10
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 10 for row in rows)
    assert rows[0] == (
        "| teacher | `erasure/all` | concept rate | 0.012 | 0.002 to 0.034 | upper <= 0.05 | 240 "
        "| 0.93 | pass |"
    )
    assert len(rows) == 4
    assert "largest difference of a noise prediction 0.0034 standard deviations, within" in text


def test_a_waived_miss_reads_as_one() -> None:
    limit = Threshold(op="<=", value=0.1, bound="upper")
    row = make_result("erasure/all", Verdict.WAIVED, threshold=limit, lower=0.10004, upper=0.10004)
    text = card(reports=(make_report((row,)),))
    assert "| 0.1 to 0.10004 | upper <= 0.1 |" in text


def test_what_speaks_against_the_model_is_in_it() -> None:
    text = card()
    assert "- English prompts only" in text
    assert "No attack was run" in text
    attacked = card(known_attacks=({"attack": "paraphrase", "success_rate": 0.2},))
    assert "- attack: paraphrase, success_rate: 0.2" in attacked
    assert "No attack was run" not in attacked
    broken = PARITY_ROW | {"passed": False, "timesteps": [{"timestep": 981, "max_abs": None}]}
    failed = card(deployment_parity=(broken,))
    assert "not finite, outside its limits" in failed
    assert "**Did not meet policy demo-weapons" in failed
    assert "Verdict: **fail**" in failed


def test_the_card_never_calls_the_model_safe() -> None:
    allowed = {"safediff", "safediff-policy", "safetensors", "safety-certificate"}
    words = set(re.findall(r"[\w-]*safe[\w-]*", card().lower()))
    assert words <= allowed


def test_same_certificate_same_bytes() -> None:
    assert card() == card()
    assert "ExportedUNet" in card()
    without = model_card(issue_certificate(make_evidence(), [WEIGHTS_FILE]))
    assert "ExportedUNet" not in without


def test_attacks_and_waivers_are_in_it() -> None:
    assert "## Waivers\n\nNone." in card()
    assert "## Attacks\n\nNone was run." in card()
    certificate = issue_certificate(attacked_evidence(), [WEIGHTS_FILE, ENGINE_FILE])
    text = model_card(certificate)
    assert "| teacher | completion | white-box | 32 | 4 of 24 | 22 of 24 | waived |" in text
    assert "- `robustness/*`, until 2026-12-31, by safety team: a new base is being" in text


def test_behind_a_guard_nobody_is_told_to_draw_without_it() -> None:
    text = model_card(issue_certificate(guarded_evidence(), [WEIGHTS_FILE, ENGINE_FILE]))
    drawn = "behind guard sld-max (25 steps, guidance 7.5)"
    assert f", {drawn}, under tests on 1000 pictures" in text
    assert f"All that was measured was measured {drawn}." in text
    assert 'SafePipeline.from_release("path/to/this/folder")' in text
    assert "DiffusionPipeline" not in text
    assert "ExportedUNet" not in text
    assert front_matter(text)["library_name"] == "safediff"
    assert front_matter(card())["library_name"] == "diffusers"


def test_engines_that_were_added_later_are_told_apart() -> None:
    assert "## Engines added later" not in card()
    certificate = issue_certificate(make_evidence(), [WEIGHTS_FILE, ENGINE_FILE])
    text = model_card(certificate | {"engines": [added_engine(), added_engine(gate="pass")]})
    assert "The verdict and the results above do not speak of these" in text
    row = "| `unet/model.onnx` | onnx | int8 | every initializer compared |"
    assert f"{row} not measured |\n{row} pass |\n" in text
