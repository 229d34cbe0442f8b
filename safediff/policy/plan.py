"""The plan: a policy with every default filled in. Stages read the plan, never the YAML.

Nothing here imports torch. Lists are resolved to texts; a text that comes from a file or a
template is already expanded, so the plan's hash covers everything that will be drawn.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
Metric = Literal["fid", "kid", "clip", "lpips", "null_drift"]


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """The base model."""

    base: str
    """``embedded``, a diffusers folder, a single-file checkpoint or a hub id."""
    revision: str | None = None
    """Commit of the hub repository; required for hub ids, None otherwise."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """One prompt of a check and what the judge should find in its picture."""

    prompt: str
    labels: tuple[str, ...]
    """Judge labels. Erasure: none of them may be present. Retention: all must be present."""


@dataclass(frozen=True, kw_only=True)
class HubPrompts:
    """Prompts that are fetched when the check runs (a hub dataset), not when it is planned."""

    dataset: str
    revision: str
    """Commit, or ``main``: then the run records which commit that was."""
    split: str
    column: str
    num_prompts: int
    """How many distinct prompts the check draws, after the content rules took theirs out."""


@dataclass(frozen=True, kw_only=True)
class ConceptPlan:
    """One thing that must go."""

    name: str
    erase: tuple[str, ...]
    """Texts the eraser removes (c_s)."""
    labels: tuple[str, ...]
    """Judge labels that mean "it is there"."""
    judge: str
    phrasings: tuple[str, ...]
    """The erase texts in every phrasing of ``erase.phrasings``: what the eraser trains on."""
    prompts: tuple[PromptPlan, ...]
    """What the erasure check draws, expanded and distinct."""
    hub_prompts: HubPrompts | None = None


@dataclass(frozen=True, kw_only=True)
class ErasePlan:
    """Settings of the eraser; None never occurs. Meaning of each knob: ``safediff.erase``."""

    method: str
    preset: str
    seed: int
    options: Json
    """Overrides of the preset, by knob name, as the policy states them."""
    keep: tuple[str, ...]
    """Texts that training may use to protect (the keep list, in every phrasing)."""


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """How checks draw pictures."""

    num_steps: int
    guidance_scale: float
    seed: int
    batch_size: int
    images_per_prompt: int


@dataclass(frozen=True, kw_only=True)
class ErasureCheck:
    """The upper bound of the rate at which erased concepts appear must not exceed max_rate."""

    max_rate: float
    confidence: float
    over: Literal["all", "each"]
    """``all``: one bound over all concepts; ``each``: every concept on its own."""
    num_prompts: int
    """Prompts drawn for the check (over all: in total; each: per concept)."""
    min_base_rate: float
    """The base model must show the concepts at least this often, else there is nothing to test."""
    line: int
    """Line of the threshold in the policy file."""


@dataclass(frozen=True, kw_only=True)
class RetentionCheck:
    """The lower bound of P(right | safe) / P(right | base), same seeds, must reach min_ratio."""

    name: str
    min_ratio: float
    confidence: float
    num_prompts: int
    prompts: tuple[PromptPlan, ...]
    line: int
    judge: str = "embedded"


@dataclass(frozen=True, kw_only=True)
class QualityCheck:
    """A two-sided or one-sided limit on a quality metric between base and safe pictures."""

    metric: Metric
    limit: float
    line: int


@dataclass(frozen=True, kw_only=True)
class VerifyPlan:
    """Everything the gate measures."""

    sampling: SamplingPlan
    erasure: ErasureCheck
    retention: tuple[RetentionCheck, ...]
    quality: tuple[QualityCheck, ...]
    collapse_min_ratio: float
    """Below this ratio of judge-right pictures on kept prompts the model counts as destroyed."""
    judge_min_sensitivity: float
    judge_min_specificity: float
    max_images: int
    """Most images that the base, the safe model and every engine may draw together."""

    def num_images(self, num_concepts: int) -> int:
        """Images that the erasure and retention checks draw from one model."""
        per_concept = 1 if self.erasure.over == "all" else num_concepts
        num_prompts = self.erasure.num_prompts * per_concept
        num_prompts += sum(check.num_prompts for check in self.retention)
        return num_prompts * self.sampling.images_per_prompt


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """Which engines are built."""

    targets: tuple[Literal["onnx", "trt"], ...]
    precision: Literal["fp32", "fp16"]
    opset: Literal[18, 23]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A resolved policy."""

    version: int
    name: str
    path: str
    """Where the policy was read from, as given; not part of the hash."""
    source_sha256: str
    """Hash of the YAML bytes."""
    model: ModelPlan
    concepts: tuple[ConceptPlan, ...]
    erase: ErasePlan
    verify: VerifyPlan
    export: ExportPlan
    notes: tuple[str, ...] = field(default=())
    """What resolution changed or left out, in sentences for the user."""

    @property
    def num_images(self) -> int:
        """Images of a whole run: the base, the safe model and every engine."""
        return self.verify.num_images(len(self.concepts)) * (2 + len(self.export.targets))

    def to_json(self) -> Json:
        """The plan as plain data, without its path."""
        data: Json = json.loads(json.dumps(asdict(self)))
        del data["path"]
        return data

    @property
    def sha256(self) -> str:
        """Hash of the resolved plan: equal plans draw equal pictures."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
