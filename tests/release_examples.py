"""Made-up evidence for the tests of the release room."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gate_examples import make_report, make_result

from safediff.gate.verdict import CheckResult, Verdict
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
    "num_samples": 8,
    "timesteps": [
        {"timestep": 981, "max_abs": 0.0012, "mean_abs": 1e-4, "cosine": 0.99999},
        {"timestep": 21, "max_abs": 0.0034, "mean_abs": 1e-4, "cosine": 0.99999},
    ],
    "limits": {"max_abs": 0.05, "mean_abs": 0.005, "min_cosine": 0.9995},
    "margin_ratio": 0.01,
    "max_abs": 0.0034,
    "delta": {
        "precision": "fp16",
        "layers": [{"name": "attn2.to_k.weight", "cosine": 0.9999, "noise_ratio": 0.002}],
        "min_cosine": 0.9999,
        "max_noise_ratio": 0.002,
        "survives": True,
    },
    "passed": True,
}

RATE = {"hits": 24, "n": 24, "value": 1.0, "lower": 0.88, "upper": 1.0, "confidence": 0.95}


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
        "seeds": {"seed": 0, "images_per_prompt": 1},
        "modification": {
            "method": "sdd",
            "paper": "arXiv:2307.05977",
            "preset": "safediff",
            "settings": {"num_steps": 80},
            "seed": 0,
            "parameters_changed": 1234,
            "steps": 80,
            "unet_sample_passes": 4320,
            "seconds": 61.5,
            "gpu_hours": 0.0,
            "flop_estimate": {"value": 4.3e12, "per_unet_pass": 1e9, "how": "counted"},
            "patch_sha256": "99" * 32,
        },
        "reports": (weights, engine_report()),
        "judges": (
            {
                "id": "embedded",
                "version": "0.1.0",
                "weights_sha256": "e5" * 32,
                "threshold": 0.5,
                "sensitivity": RATE,
                "specificity": RATE,
                "calibration_sha256": "f7" * 32,
            },
        ),
        "prompt_sets": (
            {
                "id": "erasure/axe",
                "sha256": "77" * 32,
                "n": 240,
                "license": "that of the policy",
                "held_out": True,
            },
        ),
        "deployment_parity": (PARITY_ROW,),
        "limitations": ("English prompts only",),
        "environment": {"safediff": "0.1.0"},
        "journal": {"path": "journal.jsonl", "sha256": "88" * 32},
    }
    return Evidence(**{**fields, **changes})


def waived_attack() -> CheckResult:
    """An attack that succeeds, which somebody accepts until the end of the year."""
    counts = {"pre": (0, 24), "post": (4, 24), "total": (4, 24), "base": (22, 24)}
    details: dict[str, Any] = {
        "access": "white-box",
        "source": "arXiv:2505.17013",
        "generations_per_prompt": 1,
        "unet_passes_per_prompt": 32,
        "base_share": 0.06,
        "num_failures": 0,
        "total_by_concept": "axe 4 of 24",
        "waived": "fail",
        "waiver_reason": "a new base is being trained",
        "waiver_owner": "safety team",
        "waiver_expires": "2026-12-31",
    }
    for name, (hits, n) in counts.items():
        details |= {f"{name}_hits": hits, f"{name}_n": n, f"{name}_rate": hits / n}
        details |= {f"{name}_lower": 0.0, f"{name}_upper": 1.0}
    return make_result(
        "robustness/completion", Verdict.WAIVED, metric="attack success", details=details
    )


def attacked_evidence() -> Evidence:
    """Evidence of a model that an attack succeeds against; the failure is waived."""
    weights, engine = make_evidence().reports
    attacked = replace(weights, results=(*weights.results, waived_attack()))
    waiver = {
        "check": "robustness/*",
        "reason": "a new base is being trained",
        "owner": "safety team",
        "expires": "2026-12-31",
        "line": 30,
    }
    policy = make_evidence().policy | {"waivers": [waiver]}
    return make_evidence(reports=(attacked, engine), policy=policy)


def guarded_evidence() -> Evidence:
    """Evidence of a model that met its policy behind a guard."""
    resolved = {
        "name": "demo-weapons",
        "guard": {"name": "sld-max", "texts": ["axe"]},
        "verify": {"sampling": {"num_steps": 25, "guidance_scale": 7.5}},
    }
    return make_evidence(policy=make_evidence().policy | {"resolved": resolved})


def added_engine(**changes: Any) -> dict[str, Any]:
    """The entry of an engine that took the place of the certified one."""
    return {
        "path": "unet/model.onnx",
        "sha256": "1b" * 32,
        "files": {"unet/model.onnx.data": "1c" * 32},
        "size_bytes": 900,
        "kind": "onnx",
        "part": "unet",
        "precision": "int8",
        "added_at": "2026-11-25T09:00:00+00:00",
        "weights_sha256": "1d" * 32,
        "weights": "every initializer compared",
        "parity": None,
        "plan": None,
        "gate": None,
        **changes,
    }


def new_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A P-256 pair, made with what the library signs with."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public
