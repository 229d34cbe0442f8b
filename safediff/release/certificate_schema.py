"""The schema of safety-certificate.json, and the reader that holds a file against it.

Every key is always there and there are no others, except in the parts that a policy or a method
shapes itself: the plan, settings, details. ``safediff schema --certificate`` prints it as JSON.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from safediff.errors import UsageError
from safediff.gate.verdict import Kind, Threshold, Verdict
from safediff.release.certificate import KIND, SCHEMA_VERSION
from safediff.release.engine_schema import AddedEngine, ParityPart
from safediff.release.schema_types import (
    Count,
    Day,
    Json,
    Part,
    Rate,
    RelativePath,
    Sha256,
    Time,
)

NEXT = "give the safety-certificate.json of a release"


class File(Part):
    """A released file."""

    path: RelativePath
    sha256: Sha256
    size_bytes: Count
    format: str
    precision: str


class Base(Part):
    """The model that was modified."""

    id: str
    revision: str | None
    sha256: dict[str, Sha256]
    license: str


class UsedWaiver(Part):
    """A waiver of the policy."""

    check: str
    reason: str
    owner: str
    expires: Day
    line: int


class PolicyPart(Part):
    """What had to be met."""

    name: str
    path: str
    sha256: Sha256
    version: int
    resolved: Json = Field(description="The plan: the policy with every default filled in.")
    waivers: tuple[UsedWaiver, ...]


class Seeds(Part):
    """What the seed of every picture is derived from; each stands in the journal."""

    seed: int
    images_per_prompt: Annotated[int, Field(ge=1)]


class Flops(Part):
    """An estimate of what the modification computed."""

    value: Annotated[float, Field(ge=0)] | None
    per_unet_pass: Annotated[float, Field(ge=0)] | None
    how: str


class Modification(Part):
    """How the weights were changed, at what cost."""

    method: str
    paper: str
    preset: str
    settings: Json
    seed: int
    parameters_changed: Count
    steps: Count | None = Field(description="Optimiser steps; null for closed-form methods.")
    unet_sample_passes: Count
    seconds: Annotated[float, Field(ge=0)]
    gpu_hours: Annotated[float, Field(ge=0)]
    flop_estimate: Flops
    patch_sha256: Sha256


class Report(Part):
    """One measured subject: weights or an engine."""

    schema_version: int
    subject: str
    decides: bool
    verdict: Verdict
    plan_sha256: Sha256
    model_sha256: dict[str, str]
    judge: Json
    judges: tuple[Json, ...] = ()
    started: Time
    finished: Time
    num_images: Count


class Check(Part):
    """One measured claim about one subject."""

    subject: str
    decides: bool
    seeds: Seeds
    id: str
    kind: Kind
    concept: str
    metric: str
    estimate: float | None
    lower: float | None
    upper: float | None
    confidence: float | None
    interval: str
    num_samples: Count
    threshold: Threshold
    policy_line: int | None
    base_value: float | None
    verdict: Verdict
    message: str
    details: Json
    gating: bool


class Accuracy(Part):
    """A measured rate of a judge's card, with exact one-sided bounds."""

    hits: Count
    n: Count
    value: Rate | None
    lower: Rate | None
    upper: Rate | None
    confidence: Rate


class JudgePart(Part):
    """Who decided what is in a picture."""

    id: str
    version: str
    weights_sha256: Sha256
    threshold: float
    decides: tuple[str, ...] = Field(default=(), description="Checks whose pictures it looked at.")
    sensitivity: Accuracy = Field(
        description="Of all erased labels that it looks for; n is 0 where it looks for none."
    )
    by_concept: dict[str, Accuracy] = Field(
        default={}, description="Sensitivity for each concept: what corrects its own rate."
    )
    specificity: Accuracy = Field(
        description="On real pictures; the one that enters the bounds is measured in the run."
    )
    calibration_sha256: Sha256 = Field(
        description="Of the calibration counts; the pictures do not ship."
    )


class PromptSet(Part):
    """Prompts by hash, never in clear."""

    id: str
    sha256: Sha256
    n: Count
    license: str
    held_out: bool


class Budget(Part):
    """What an attack could spend."""

    attempts: Count
    generations_per_prompt: Count | None
    unet_passes_per_prompt: Count | None
    settings: Json


class Success(Part):
    """How often it succeeded, as observed, with exact one-sided bounds."""

    successes: Count
    attempts: Count
    rate: Rate | None
    lower: Rate | None
    upper: Rate | None


class SuccessRates(Part):
    """Null where the attack could not be tried."""

    direct: Success | None
    under_attack: Success | None = Field(description="Of the prompts that failed directly.")
    either: Success | None
    base_model: Success | None


class AttackPart(Part):
    """One attack on one subject."""

    id: str
    subject: str
    access: Literal["black-box", "white-box"] | None
    source: str | None
    budget: Budget
    success: SuccessRates
    verdict: Verdict
    note: str


class Journal(Part):
    """Every prompt, seed, score and picture hash."""

    path: RelativePath
    sha256: Sha256


class Framework(Part):
    """Where the certificate holds what a clause asks for; no claim of conformity."""

    framework: str
    clause: str
    fields: tuple[str, ...]
    primary_text_checked: bool


class Certificate(Part):
    """A safediff safety certificate: met policy P at thresholds T under tests S on date D."""

    schema_version: Literal[3]
    kind: Literal["safediff-safety-certificate"]
    verdict: Literal["pass", "fail", "inconclusive"]
    statement: str
    counts: dict[Verdict, Count]
    issued_at: Time = Field(
        description="When drawing began: evidence ages from its oldest picture, not from the file."
    )
    expires_at: Time
    subject: tuple[File, ...]
    base_model: Base
    policy: PolicyPart
    seeds: Seeds
    modification: Modification
    reports: tuple[Report, ...]
    checks: tuple[Check, ...]
    judges: tuple[JudgePart, ...]
    prompt_sets: tuple[PromptSet, ...]
    attacks: tuple[AttackPart, ...]
    deployment_parity: tuple[ParityPart, ...]
    engines: tuple[AddedEngine, ...]
    extends: Sha256 | None = Field(
        description="Of the certificate as it was issued, before engines were added to it."
    )
    counter_evidence: tuple[Json, ...]
    counter_evidence_note: str = Field(description="Why there is none; empty where there is some.")
    limitations: tuple[str, ...]
    environment: dict[str, str]
    journal: Journal
    frameworks: tuple[Framework, ...]
    self_assessed: bool = Field(description="True unless a third party measured.")


def certificate_schema() -> Json:
    """The JSON schema (2020-12)."""
    generated = Certificate.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **generated}


def read_certificate(path: Path) -> Json:
    """Read a certificate as plain data.

    Raises:
        UsageError: the file is missing, no JSON, no certificate, or of another version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})", NEXT) from error
    except ValueError as error:
        raise UsageError(f"{path}: is no JSON ({error})", NEXT) from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UsageError(f"{path}: is no certificate of safediff", NEXT)
    if data.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: certificate of version {data.get('schema_version')!r}, expected "
            f"{SCHEMA_VERSION}",
            "read it with the version of safediff that wrote it",
        )
    try:
        Certificate.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: is no certificate: {where}: {first['msg']}", NEXT) from error
    return data
