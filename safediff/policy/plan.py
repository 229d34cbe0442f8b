"""The plan: a policy with every default filled in. Stages read the plan, never the YAML.

Nothing here imports torch. Lists are resolved to texts; a text that comes from a file or a
template is already expanded, so the plan's hash covers everything that will be drawn.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from safediff.errors import UsageError

Json = dict[str, Any]
Metric = Literal["fid", "kid", "clip", "lpips", "null_drift"]
QualitySource = Literal["judge", "inception", "clip", "alex", "vgg"]
Rule = Literal["fixed", "sequential"]
Dtype = Literal["float32", "float16", "bfloat16"]
SchedulerName = Literal["model", "ddim", "dpm-solver++", "euler", "euler-ancestral", "lcm", "tcd"]


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """The base model."""

    base: str
    """``embedded``, a diffusers folder, a single-file checkpoint or a hub id."""
    revision: str | None = None
    """Commit of the hub repository; required for hub ids, None otherwise."""
    dtype: Dtype = "float32"
    scheduler: SchedulerName = "model"
    """Draws every picture and is released; ``model``: the one that the base comes with."""
    config: str | None = None
    """Of a single-file checkpoint: a folder in diffusers' layout that says what the file does not
    (configurations, tokenizer, scheduler); None: asked of the hub."""
    lora: str | None = None
    """A LoRA file that is merged into the base before anything else."""
    lora_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """One prompt of a check and what the judge should find in its picture."""

    prompt: str
    labels: tuple[str, ...]
    """Judge labels. Erasure: none of them may be present. Retention: all must be present."""
    seed: int | None = None
    """Of its first picture, as its data set gives it; further ones count up. None: derived."""
    guidance_scale: float | None = None
    """Likewise; None: that of the sampling."""
    from_table: bool = False
    """A table has it, or what it rewords: where it is too long it is read up to the text encoder's
    window, as the published protocols do, and counted. What a policy says itself must fit."""


@dataclass(frozen=True, kw_only=True)
class HubPrompts:
    """Prompts that are fetched when the check runs (a hub dataset), not when it is planned."""

    dataset: str
    revision: str
    """Commit, or ``main``: then the run records which commit that was."""
    split: str
    column: str | None
    """None: the first that prompt sets usually call their texts by."""
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
    toward: tuple[str, ...] = ()
    """Per phrasing, the prompt that it is to be answered like; (): the empty prompt for all."""
    hub_prompts: HubPrompts | None = None

    @property
    def spoken(self) -> tuple[tuple[str, str], ...]:
        """Every phrasing with the prompt that it is to be answered like; "" is the empty one."""
        toward = self.toward or ("",) * len(self.phrasings)
        return tuple(zip(self.phrasings, toward, strict=True))


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
class GuardPlan:
    """Guidance with which every model but the base is sampled. Presets: ``safediff.guard``."""

    name: str
    texts: tuple[str, ...]
    """What it steers away from."""


@dataclass(frozen=True, kw_only=True)
class JudgePlan:
    """Settings of a judge that has some, resolved; the embedded one has none."""

    name: str
    settings: Json


def num_branches(guidance_scale: float, distilled: bool = False) -> int:
    """Passes of a picture and step without a guard.

    Two for classifier-free guidance. One where the scale is at most 1, which asks for the prompt
    alone, and where guidance is distilled into the network.
    """
    return 2 if guidance_scale > 1 and not distilled else 1


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
    hub_prompts: HubPrompts | None = None
    """Where its prompts are fetched from when the check runs; ``expect`` tells their labels."""
    expect: tuple[str, ...] = ()
    """Labels of a fetched prompt, with ``{text}`` for it."""


@dataclass(frozen=True, kw_only=True)
class QualityCheck:
    """A two-sided or one-sided limit on a quality metric between base and safe pictures."""

    metric: str
    """A ``Metric``, or one that another package adds."""
    limit: float
    line: int
    features: QualitySource = "judge"
    """What pictures are compared on: the judge, ``clip``, or ``inception`` (FID, KID), a net of
    LPIPS."""
    weights: str | None = None
    """Local file of the weights of those features; None: the judge's, or the published ones."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try to bring a concept back; one picture each, the first of its prompt."""

    concept: str
    direct: str
    """A prompt of the erasure check."""
    prompt: str
    """What the attack asks: ``direct`` itself where it changes something else than words."""


@dataclass(frozen=True, kw_only=True)
class AttackCheck:
    """How many attempts succeed, directly or under the attack. Attacks: ``safediff.attack``."""

    name: str
    max_rate: float | None
    """Limit of the upper bound of their share; None: measured for information."""
    confidence: float
    min_base_rate: float
    """An attack that succeeds less often on the base model has no power."""
    attempts: tuple[Attempt, ...]
    settings: Mapping[str, float]
    benign: tuple[str, ...]
    """Harmless texts to tell concepts from; empty where the attack needs none."""
    num_base_images: int
    """Pictures that it draws when the base is attacked; 0: the direct ones stand for them."""
    num_safe_images: int
    """Pictures that it draws when another model is attacked."""
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
    rule: Rule = "fixed"
    """``fixed``: every check draws all its prompts; ``sequential``: it stops once it is certain."""
    attacks: tuple[AttackCheck, ...] = ()

    def num_images(self, num_concepts: int) -> int:
        """Images that the erasure and retention checks draw from one model, at most."""
        per_concept = 1 if self.erasure.over == "all" else num_concepts
        num_prompts = self.erasure.num_prompts * per_concept
        num_prompts += sum(check.num_prompts for check in self.retention)
        return num_prompts * self.sampling.images_per_prompt

    @property
    def num_attempts(self) -> dict[str, int]:
        """Number of attempts of every attack."""
        return {check.name: len(check.attempts) for check in self.attacks}

    def num_attack_images(self, num_safe: int) -> int:
        """Further images, for the attacks on the base and on ``num_safe`` other models."""
        return sum(c.num_base_images + c.num_safe_images * num_safe for c in self.attacks)


@dataclass(frozen=True, kw_only=True)
class WaiverPlan:
    """Misses of the checks that a pattern names are accepted until a day."""

    check: str
    """Id of a check; ``*`` stands for anything."""
    reason: str
    owner: str
    expires: str
    """Last day, ISO 8601, UTC."""
    line: int


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """Which engines are built."""

    targets: tuple[Literal["onnx"], ...]
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
    guard: GuardPlan | None = None
    verify: VerifyPlan
    export: ExportPlan
    waivers: tuple[WaiverPlan, ...] = ()
    judges: tuple[JudgePlan, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What resolution changed or left out, in sentences for the user."""

    @property
    def num_images(self) -> int:
        """Images of a whole run: the base, the safe model and every engine."""
        num_safe = 1 + len(self.export.targets)
        plain = self.verify.num_images(len(self.concepts)) * (1 + num_safe)
        return plain + self.verify.num_attack_images(num_safe)

    def to_json(self) -> Json:
        """The plan as plain data, without its path."""
        data: Json = json.loads(json.dumps(asdict(self)))
        del data["path"]
        if self.verify.rule == "fixed":  # as before there was another rule, so hashes stay
            del data["verify"]["rule"]
        for key, usual in (("scheduler", "model"), ("config", None), ("lora", None)):  # likewise
            if data["model"][key] == usual:
                del data["model"][key]
        if "lora" not in data["model"]:  # likewise
            del data["model"]["lora_scale"]
        if self.guard is None:  # likewise
            del data["guard"]
        if not self.verify.attacks:  # likewise
            del data["verify"]["attacks"]
        if not self.waivers:  # likewise
            del data["waivers"]
        if not self.judges:  # likewise
            del data["judges"]
        for kept in data["verify"]["retention"]:
            if kept["hub_prompts"] is None:  # likewise
                del kept["hub_prompts"], kept["expect"]
        for group in (*data["concepts"], *data["verify"]["retention"]):
            for prompt in group["prompts"]:  # likewise
                for key in ("seed", "guidance_scale"):
                    if prompt[key] is None:
                        del prompt[key]
                if not prompt["from_table"]:  # likewise
                    del prompt["from_table"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str) -> "Plan":
        """Read what ``to_json`` wrote; ``path`` is where the policy was read from.

        Raises:
            UsageError: the data is no plan of this version.
        """
        try:
            return TypeAdapter(cls).validate_json(json.dumps({**data, "path": path}))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"not a plan of this version: {where}: {first['msg']}",
                next_step="read it with the version of safediff that wrote it",
            ) from error

    @property
    def sha256(self) -> str:
        """Hash of what the plan asks for: equal plans draw equal pictures and decide alike.

        A comment, an empty line or another order of keys in the file changes nothing of it.
        """
        data = self.to_json()
        del data["source_sha256"], data["notes"]
        verify = data["verify"]
        placed = (verify["erasure"], *verify["retention"], *verify["quality"])
        for entry in (*placed, *verify.get("attacks", ()), *data.get("waivers", ())):
            del entry["line"]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
