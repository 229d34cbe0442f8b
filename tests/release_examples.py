"""Made-up evidence for the tests of the release room."""

from datetime import UTC, datetime
from typing import Any

from gate_examples import make_report, make_result

from safediff.gate.verdict import Verdict
from safediff.release.certificate import Evidence

ENGINE_FILE = {
    "path": "unet/model.onnx",
    "sha256": "0a" * 32,
    "size_bytes": 1000,
    "format": "onnx",
    "precision": "fp16",
}
WEIGHTS_FILE = ENGINE_FILE | {
    "path": "unet/diffusion_pytorch_model.safetensors",
    "format": "safetensors",
}
PARITY_ROW: dict[str, Any] = {
    "artifact": "unet/model.onnx",
    "reference": "unet/diffusion_pytorch_model.safetensors",
    "precision": "fp16",
    "timesteps": [{"timestep": 981, "max_abs": 0.0012}, {"timestep": 21, "max_abs": 0.0034}],
    "passed": True,
}


def engine_report(verdict: Verdict = Verdict.PASS) -> Any:
    return make_report(
        (make_result("erasure/all", verdict),),
        subject="onnx engine",
        model_sha256={"engine": "f6" * 32},
        num_images=40,
    )


def make_evidence(**changes: Any) -> Evidence:
    """Evidence of a model that met its policy, with its engine."""
    weights = make_report(
        (
            make_result("erasure/all", Verdict.PASS),
            make_result("quality/kid", Verdict.WARN, estimate=None, lower=None),
            make_result("erasure/axe", Verdict.WARN, gating=False),
        )
    )
    fields: dict[str, Any] = {
        "issued_at": datetime(2026, 11, 24, 9, 30, tzinfo=UTC),
        "policy": {
            "name": "demo-weapons",
            "path": "policies/demo-weapons.yaml",
            "sha256": "a1" * 32,
            "version": 1,
            "resolved": {"name": "demo-weapons"},
            "waivers": [],
        },
        "base_model": {
            "id": "CompVis/stable-diffusion-v1-4",
            "revision": "133a221b",
            "sha256": {"unet": "c3" * 32},
            "license": "creativeml-openrail-m",
        },
        "modification": {"method": "sdd", "paper": "arXiv:2307.05977", "steps": 80},
        "reports": (weights, engine_report()),
        "judges": ({"id": "embedded", "sha256": "e5" * 32},),
        "prompt_sets": ({"id": "erasure/all", "sha256": "77" * 32, "n": 240},),
        "deployment_parity": (PARITY_ROW,),
        "limitations": ("English prompts only",),
        "environment": {"safediff": "0.1.0"},
        "journal": {"path": "journal.jsonl", "sha256": "88" * 32},
    }
    return Evidence(**{**fields, **changes})
