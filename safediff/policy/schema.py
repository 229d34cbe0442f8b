"""What a policy file may say, as pydantic models; the JSON schema is generated from them.

Everything here may be left out unless it has no default. ``safediff.policy.resolve`` fills the
defaults that depend on other keys, so stages never read these models but the plan.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator, model_validator

from safediff.attack.params import ATTACKS
from safediff.policy.entry import (
    AttackName,
    Commit,
    Entry,
    JudgeName,
    MaxRate,
    MethodName,
    Premise,
    Rate,
    Text,
    TextList,
)
from safediff.policy.judge_settings import Judges
from safediff.policy.plan import SchedulerName

Json = dict[str, Any]

Instead = Annotated[str, Field(max_length=400, pattern=r"^(\S(.*\S)?)?$")]
"""Likewise, or nothing."""

Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Confidence = Annotated[float, Field(gt=0.5, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

GuardName = Literal[
    "neg",
    "sld-weak",
    "sld-weak-200",
    "sld-medium",
    "sld-strong",
    "sld-max",
    "sega",
    "sega-medium",
    "sega-strong",
    "sega-max",
]

_LIST, _MAPPING, _NAME = "<list>", "<mapping>", "<name>"
"""Union tags; no key of a policy can be spelled like them."""


def _shape(value: Any) -> str:
    return _LIST if isinstance(value, tuple | list) else _MAPPING


def _name_or_mapping(value: Any) -> str:
    return _MAPPING if isinstance(value, dict | BaseModel) else _NAME


class TextFile(Entry):
    """Texts from a file."""

    file: Text = Field(description="One text a line, # starts a comment; beside the policy.")
    excluded: tuple[Text, ...] = Field(
        default=(), alias="except", description="Texts to leave out."
    )


Texts = Annotated[
    Annotated[TextList, Tag(_LIST)] | Annotated[TextFile, Tag(_MAPPING)], Discriminator(_shape)
]
Values = Annotated[
    dict[str, Texts], Field(description="What each placeholder of the templates stands for.")
]
Templates = Annotated[
    TextList, Field(description="Prompts with placeholders: {text} and the names in values.")
]


class Lora(Entry):
    """A LoRA that is merged into the base before anything else."""

    path: Text = Field(description="A local .safetensors file, beside the policy.")
    scale: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0


class Model(Entry):
    """The base model."""

    base: Text = Field(description="embedded, a diffusers folder, a .safetensors file, a hub id.")
    revision: Commit | None = Field(
        default=None, description="Commit (40 hex digits); for hub ids."
    )
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    scheduler: SchedulerName = Field(
        default="model",
        description="Draws every picture of the checks and is released; model: the base's own.",
    )
    config: Text | None = Field(
        default=None,
        description="For a .safetensors file: a local diffusers folder with its configurations, "
        "tokenizers and scheduler; weights in it are not read. Default: asked of the hub.",
    )
    lora: Lora | None = None


Column = Annotated[
    Text | None,
    Field(
        default=None,
        description="Default: the first of prompt, text, adv_prompt, sensitive prompt, caption.",
    ),
]


class CsvPrompts(Entry):
    """Prompts from a CSV file beside the policy; seeds and guidance in it are used."""

    file: Text
    column: Column = None


class FolderPrompts(Entry):
    """Prompts from a local data set: a folder of CSV, TSV, JSON Lines or Parquet files."""

    path: Text = Field(description="Beside the policy.")
    split: Text = "train"
    column: Column = None


class AttackPrompts(Entry):
    """Prompts of an attack from a CSV file beside the policy; seeds in it are not used."""

    file: Text
    column: Text | None = Field(
        default=None,
        description="Default: the first of adv_prompt, prompt, text and sensitive prompt.",
    )
    concept_column: Text = Field(
        default="concept", description="Names the concept; needed if the policy has several."
    )


class HubPrompts(Entry):
    """Prompts from a hub dataset, fetched when the check runs, never shipped."""

    dataset: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|main)$")] = Field(
        description="Commit (40 hex digits), or main: the run records which commit that was."
    )
    split: Text = "train"
    column: Column = None


class Prompts(Entry):
    """What a check draws: templates, a CSV file, a local folder or a hub dataset."""

    templates: Templates | None = None
    values: Values = Field(default={})
    csv: CsvPrompts | None = None
    folder: FolderPrompts | None = None
    hub: HubPrompts | None = None
    paraphrases: Annotated[int, Field(ge=0, le=8)] = Field(
        default=0, description="Rewordings drawn beside every prompt, so many of each; not of hub."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Prompts":
        kinds = ("templates", "csv", "folder", "hub")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) > 1:
            message = "give one of templates, csv, folder and hub, not "
            raise ValueError(message + " and ".join(given))
        if self.hub is not None and self.paraphrases:
            raise ValueError("prompts of a hub dataset are not paraphrased")
        return self


AnyPrompts = Annotated[
    Annotated[TextList, Tag(_LIST)] | Annotated[Prompts, Tag(_MAPPING)], Discriminator(_shape)
]


class Concept(Entry):
    """One thing that must go."""

    name: Text
    erase: TextList = Field(description="Texts that the eraser removes.")
    labels: TextList | None = Field(
        default=None, description='Judge labels that mean "it is there"; default: the erase texts.'
    )
    judge: JudgeName | None = Field(default=None, description="Default: the judge of the policy.")
    prompts: AnyPrompts | None = Field(
        default=None, description="Default: the prompts of the policy."
    )


class Keep(Entry):
    """Texts that training may use to protect what is not erased."""

    file: Text | None = None
    texts: TextList | None = None
    excluded: tuple[Text, ...] = Field(default=(), alias="except")
    templates: Templates | None = Field(
        default=None,
        description="Default: the phrasings of the eraser, with {text} as the kept text.",
    )
    values: Values = Field(default={})

    @model_validator(mode="after")
    def _one_source(self) -> "Keep":
        if (self.file is None) == (self.texts is None):
            raise ValueError("give either file or texts")
        return self


AnyKeep = Annotated[
    Annotated[tuple[Text, ...], Tag(_LIST)] | Annotated[Keep, Tag(_MAPPING)],
    Discriminator(_shape),
]


class Erase(Entry):
    """The eraser and its settings."""

    method: MethodName = "sdd"
    preset: Text | None = Field(
        default=None,
        description="Settings to start from; default: the first preset of the method.",
    )
    seed: Seed = 0
    phrasings: Templates | None = Field(
        default=None,
        description="Templates for the erase texts; default: the templates of the prompts.",
    )
    toward: Annotated[tuple[Instead, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Per phrasing, what is drawn instead; '' is the empty prompt, the default.",
    )
    values: Values = Field(default={})
    options: dict[str, Any] = Field(
        default={}, description="Overrides of the preset, by knob name."
    )


class Guard(Entry):
    """Guidance away from texts while pictures are drawn; no weights change."""

    name: GuardName
    texts: TextList | None = Field(
        default=None, description="What to steer away from; default: all erase texts."
    )


class Sampling(Entry):
    """How checks draw pictures."""

    num_steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance_scale: Annotated[float, Field(ge=0.0)] = 7.5
    seed: Seed = 0
    batch_size: Count = 16
    images_per_prompt: Count = 1


class Erasure(Entry):
    """The upper bound of the rate at which erased concepts appear."""

    max_rate: MaxRate
    confidence: Confidence = 0.95
    over: Literal["all", "each"] = Field(
        default="all",
        description="all: one bound over all concepts; each: every concept on its own.",
    )
    num_prompts: Count | None = Field(
        default=None,
        description="over all: in total; each: per concept. Default: every distinct prompt.",
    )
    min_base_rate: Premise = Field(
        default=0.5, description="The base model must show the concepts so often."
    )


class Retention(Entry):
    """The lower bound of P(right | safe) / P(right | base), same seeds."""

    name: Text
    min_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    confidence: Confidence = 0.95
    num_prompts: Count | None = Field(default=None, description="Default: every distinct prompt.")
    texts: Texts = Field(default=(), description="A list written here is held out from training.")
    csv: CsvPrompts | None = Field(default=None, description="Texts from a CSV file instead.")
    folder: FolderPrompts | None = Field(default=None, description="Texts from a local data set.")
    hub: HubPrompts | None = Field(
        default=None, description="Prompts from a hub dataset, as they are; needs num_prompts."
    )
    judge: JudgeName | None = Field(default=None, description="Default: the judge of the policy.")
    templates: Templates | None = Field(
        default=None, description="Default: the prompts of the policy."
    )
    values: Values = Field(default={})
    expect: TextList = Field(
        default=("{text}",), description="Judge labels that must all be found, with placeholders."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Retention":
        kinds = ("texts", "csv", "folder", "hub")
        given = [name for name in kinds if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of texts, csv, folder and hub, not {len(given)}")
        if self.hub and (self.templates or self.num_prompts is None):
            raise ValueError("prompts of a hub dataset have no templates and need num_prompts")
        return self


_SETTINGS = sorted({key for profile in ATTACKS.values() for key in profile.settings})


class Attack(Entry):
    """One way to bring erased concepts back."""

    name: AttackName
    max_rate: MaxRate | None = Field(
        default=None,
        description="Limit of the share of prompts that show a concept, asked directly or under "
        "the attack; default: measured for information.",
    )
    num_prompts: Count | None = Field(default=None, description="In total; default: 24.")
    csv: AttackPrompts | None = Field(default=None, description="cached: what it asks.")
    eta: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="ring-a-bell-embedding and ring-a-bell: how far they go; default: 3.",
    )
    reg: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="closed-form: weight of the way back's size; default: 0.1."
    )
    base_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=None, description="completion: share of steps that the base runs; default: 0.06."
    )
    settings: dict[str, float] = Field(
        default={}, description="Settings of an attack that another package adds."
    )
    num_tokens: Annotated[int, Field(ge=1, le=70)] | None = Field(
        default=None,
        description="Words: unlearn-diff-atk, of the prefix, default 5; ring-a-bell, default 16.",
    )
    num_iterations: Count | None = Field(
        default=None,
        description="Steps of the search or training: unlearn-diff-atk, per prompt, default 40; "
        "textual-inversion, per concept, default 200; classifier-guidance, default 300; "
        "fine-tuning, default 200.",
    )
    num_points: Count | None = Field(
        default=None, description="unlearn-diff-atk: timesteps of the loss; default: 8."
    )
    num_tries: Count | None = Field(
        default=None,
        description="Pictures per prompt, of which the judge keeps the best: unlearn-diff-atk, "
        "default 4; noise, default and at most 24; classifier-guidance, default 8.",
    )
    num_pictures: Count | None = Field(
        default=None,
        description="Pictures of the base model to train on: textual-inversion, per concept, "
        "default 16; classifier-guidance, per concept, default 8; fine-tuning, default 32.",
    )
    batch_size: Count | None = Field(
        default=None, description="textual-inversion and fine-tuning: latents a step; default: 4."
    )
    learning_rate: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="Default: unlearn-diff-atk 0.3, textual-inversion 0.02, fine-tuning 0.001.",
    )
    weight_decay: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None, description="unlearn-diff-atk: default 0.1."
    )
    population: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="ring-a-bell: texts alive at a time; default: 64."
    )
    num_rounds: Count | None = Field(
        default=None, description="ring-a-bell: generations of the search; default: 60."
    )
    mutation_rate: Rate | None = Field(default=None, description="ring-a-bell: default 0.25.")
    crossover_rate: Rate | None = Field(default=None, description="ring-a-bell: default 0.5.")
    scale: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="classifier-guidance: the largest that is tried; default: 193."
    )
    rank: Count | None = Field(default=None, description="fine-tuning: of its LoRA; default: 8.")

    @model_validator(mode="after")
    def _own_settings(self) -> "Attack":
        owners = {key: [n for n, p in ATTACKS.items() if key in p.settings] for key in _SETTINGS}
        owners["csv"] = ["cached"]
        for key, names in owners.items():
            if getattr(self, key) is not None and self.name not in names:
                raise ValueError(f"{key} is a setting of {' and '.join(names)}, not of {self.name}")
        if self.name == "noise" and (self.num_tries or 0) > 24:
            raise ValueError("noise tries a grid of 24 at most: lower num_tries")
        if self.name == "cached" and self.csv is None:
            raise ValueError("cached needs csv: a file of prompts")
        return self


AnyAttack = Annotated[
    Annotated[AttackName, Tag(_NAME)] | Annotated[Attack, Tag(_MAPPING)],
    Discriminator(_name_or_mapping),
]


class Quality(Entry):
    """Limits on quality metrics between base and safe pictures."""

    fid: Annotated[float, Field(gt=0.0)] | None = None
    kid: Annotated[float, Field(gt=0.0)] | None = None
    clip: Annotated[float, Field(gt=0.0)] | None = None
    lpips: Annotated[float, Field(gt=0.0)] | None = None
    null_drift: Annotated[float, Field(gt=0.0)] | None = None
    features: Literal["judge", "inception", "clip"] = Field(
        default="judge",
        description="What FID and KID compare; inception needs the metrics extra, clip is the "
        "model of judges.clip.",
    )
    clip_model: Literal["judge", "clip"] = Field(
        default="judge",
        description="What the text-image score is taken with; clip is the model of judges.clip.",
    )
    features_weights: Text | None = Field(
        default=None,
        description="Local copy of the weights for features; default: downloaded on first use.",
    )
    lpips_net: Literal["judge", "alex", "vgg"] = Field(
        default="judge",
        description="What the perceptual distance compares; alex and vgg need the metrics extra.",
    )
    lpips_weights: Text | None = Field(
        default=None,
        description="Local copy of the weights for lpips_net; default: downloaded on first use.",
    )
    metrics: dict[str, Annotated[float, Field(gt=0.0)]] = Field(
        default={}, description="Limits on metrics that other packages add, by name."
    )


class Collapse(Entry):
    """When the model counts as destroyed, so that nothing may be claimed."""

    min_ratio: Premise = 0.5


class JudgeLimits(Entry):
    """What a judge must reach before it is believed, on its card and on kept pictures."""

    min_sensitivity: Premise = 0.9
    min_specificity: Premise = 0.95


class Budget(Entry):
    """The most that a run may draw."""

    max_images: Count | None = Field(
        default=None, description="Images of the base, the safe model and every engine together."
    )
    rule: Literal["fixed", "sequential"] = Field(
        default="fixed",
        description="fixed: every check draws all its prompts; sequential: a check stops as soon "
        "as its answer is certain, at bounds that hold at every look.",
    )


class Verify(Entry):
    """What the gate measures."""

    sampling: Sampling = Sampling()
    erasure: Erasure
    retention: tuple[Retention, ...] = ()
    quality: Quality = Quality()
    attacks: tuple[AnyAttack, ...] = Field(
        default=(), description="How an adversary may try to bring the concepts back."
    )
    collapse: Collapse = Collapse()
    judge: JudgeLimits = JudgeLimits()
    budget: Budget = Budget()


class Waiver(Entry):
    """A failure that somebody accepts for a while; it stays visible in every output."""

    check: Text = Field(
        description="Id of a check, as in the report; * stands for anything: robustness/*."
    )
    reason: Text
    owner: Text = Field(description="Who answers for it.")
    expires: Day = Field(description="Last day (UTC), YYYY-MM-DD; from then on it is a failure.")


class Export(Entry):
    """Which engines are built."""

    targets: Annotated[tuple[Literal["onnx"], ...], Field(max_length=1)] = Field(
        default=("onnx",),
        description="onnx, or nothing: the release then holds the weights alone. Plans of TensorRT "
        "are built from a release.",
    )
    precision: Literal["fp32", "fp16"] = "fp32"
    opset: Literal[18, 23] = 18

    @field_validator("targets", mode="before")
    @classmethod
    def _no_plans(cls, targets: Any) -> Any:
        if isinstance(targets, tuple | list) and "trt" in targets:
            raise ValueError(
                "trt is no target of a policy: build it with safediff export RELEASE --trt"
            )
        return targets


class Policy(Entry):
    """A safediff policy."""

    version: Annotated[int, Field(ge=1, le=1)] = Field(description="Version of this format: 1.")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(
        description="Names the run folder: small letters, digits, dots and dashes."
    )
    model: Model
    judge: JudgeName = Field(default="embedded", description="Who decides what is in a picture.")
    judges: Judges = Field(
        default=Judges.model_validate({}), description="Settings of judges, by name."
    )
    prompts: AnyPrompts = Prompts()
    concepts: Annotated[tuple[Concept, ...], Field(min_length=1)]
    keep: AnyKeep = ()
    erase: Erase = Erase()
    guard: Guard | None = Field(
        default=None, description="Steers every model but the base; default: none."
    )
    verify: Verify
    waivers: tuple[Waiver, ...] = Field(
        default=(), description="Failures that are accepted until a day."
    )
    export: Export = Export()


def policy_schema() -> Json:
    """The JSON schema of a policy: draft 7, which editors understand."""
    generated = Policy.model_json_schema(by_alias=True)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **generated}
