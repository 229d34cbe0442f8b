"""What a certificate says of engines: compared with PyTorch, and added after it was issued."""

from typing import Literal

from pydantic import Field

from safediff.gate.verdict import Verdict
from safediff.release.schema_types import Count, Part, RelativePath, Sha256, Time


class ParityStep(Part):
    """Differences at one timestep, in standard deviations of the reference; null: not finite."""

    timestep: int
    max_abs: float | None
    mean_abs: float | None
    cosine: float | None


class ParityLimit(Part):
    """What a precision may cost."""

    max_abs: float
    mean_abs: float
    min_cosine: float


class LayerSurvivalPart(Part):
    """One edited tensor: the edit that rounding leaves, against the edit that was verified."""

    name: str
    cosine: float
    noise_ratio: float


class SurvivalPart(Part):
    """What rounding to the engine's precision leaves of the edit."""

    precision: str
    layers: tuple[LayerSurvivalPart, ...]
    min_cosine: float
    max_noise_ratio: float
    survives: bool


class ParityPart(Part):
    """An engine against the reference."""

    artifact: RelativePath
    weights_sha256: Sha256 | None = Field(
        default=None,
        description="Of the weights in a certified engine, as its report names them; null: an "
        "added engine's stand in its own entry, or certified by a version that did not say it.",
    )
    weights: str | None = Field(
        default=None, description="How it was proved that these are the certified ones."
    )
    reference: str
    precision: str
    num_samples: Count = Field(description="Latents compared at each timestep.")
    side: Count | None = Field(default=None, description="Width of those latents.")
    engine_calls: Count | None = Field(
        default=None, description="Of which every one has that many latents."
    )
    timesteps: tuple[ParityStep, ...]
    limits: ParityLimit
    margin_ratio: float | None
    max_abs: float | None
    delta: SurvivalPart | None = Field(description="Null: the base was not known.")
    passed: bool
    gate_rerun: bool = Field(description="Whether the whole gate was run on the artifact.")


class OutputParityPart(Part):
    """One output of a compiled part against PyTorch's, in standard deviations of the latter."""

    output: str
    max_abs: float | None
    mean_abs: float | None
    cosine: float | None


class PartParityPart(Part):
    """A compiled part against the reference."""

    reference: str
    precision: str
    num_samples: Count
    outputs: tuple[OutputParityPart, ...]
    limits: ParityLimit
    passed: bool


class WeightsFoundPart(Part):
    """How many of the model's tensors lie in a plan byte by byte."""

    found: Count
    of: Count
    edited_found: Count | None = Field(description="Of those that erasing changed.")
    edited_of: Count | None
    base_found: Count | None = Field(description="As the base has them; null: it was not known.")


class BuiltOnPart(Part):
    """The machine that built a plan."""

    gpu: str | None = Field(description="Null: it had none, the plan is for a named target.")
    compute_capability: str | None
    driver: str | None = Field(description="Null: not known.")
    cuda: str | None
    os: str
    python: str


class PlanPart(Part):
    """What a plan was built from, and for what."""

    module_version: str
    target: str | None = Field(description="Compute capability; null: the GPU that built it.")
    built_on: BuiltOnPart | None = Field(
        default=None, description="Null: built by a version that did not say it."
    )
    refittable: bool
    base_sha256: Sha256
    source_onnx_sha256: Sha256
    source_certified: bool = Field(description="Whether that graph is a file of this certificate.")
    weights_found: WeightsFoundPart


class AddedEngine(Part):
    """What was added after the certificate was issued; the verdict does not speak of it."""

    path: RelativePath
    sha256: Sha256
    files: dict[RelativePath, Sha256] = Field(description="What belongs to it: data, sidecar.")
    size_bytes: Count
    kind: Literal["onnx", "tensorrt", "tensorrt_rtx", "safetensors"] = Field(
        description="safetensors: one file of the whole model, with the original names."
    )
    part: str
    precision: str
    added_at: Time
    weights_sha256: Sha256
    weights: str = Field(description="How it was proved that these are the certified ones.")
    parity: PartParityPart | ParityPart | None = Field(description="Null: it was never run.")
    delta: SurvivalPart | None = Field(
        default=None,
        description="Null: the base was not known, it is no part that erasing edits, or it was "
        "added by a version that did not say it.",
    )
    plan: PlanPart | None
    gate: Verdict | None = Field(
        description="Of the policy measured on it, by safediff-export.json; null: not measured."
    )
