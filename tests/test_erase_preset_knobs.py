"""Every knob of every preset changes the result: alone, or beside the settings that it needs."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from closed_form_examples import CONCEPTS, KEEP
from erase_examples import small_trainer
from small_denoiser import small_backbone

from safediff.erase.closed_form.solve import solve
from safediff.erase.methods import METHODS, resolve
from safediff.erase.params import PRESETS, DistilParams
from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.patch import state_sha256

# diffusers hands tensors to numpy in an outdated way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PAIRS = [(name, preset) for name, method in METHODS.items() for preset in method.presets]
WITHOUT_EFFECT = {
    *("log_every", "save_every_s"),
    *("gradient_checkpointing", "micro_batch", "offload", "offload_average"),
    *("channels_last", "compile"),
}
"""When something is written down, or with how much memory it is computed: in no preset."""

SHRUNK = {"num_steps": 4, "num_inference_steps": 8, "learning_rate": 1e-3, "reuse": 1}
OTHER: dict[str, Any] = {
    "num_steps": 5,
    "stop_at": 0.9,
    "learning_rate": 2e-3,
    "weight_decay": 0.5,
    "beta1": 0.5,
    "beta2": 0.9,
    "epsilon": 1e-3,
    "max_grad_norm": 1e-4,
    "ema_decay": 0.05,
    "ema_warmup": True,
    "guidance_scale": 7.5,
    "num_inference_steps": 10,
    "rollout_scheduler": "dpm-solver++",
    "loss_timestep": "step",
    "timesteps": "early",
    "batch_size": 3,
    "reuse": 2,
    "eta": 1.0,
    "anchor_weight": 100.0,
    "keep_share": 0.4,
    "keep_weight": 2.0,
    "null_space": 0.1,
    "warm_start": 0.5,
    "keep_sampling": "influence",
    "way_back_share": 0.9,
    "way_back_reg": 10.0,
    "lora_rank": 2,
    "trunk_dtype": "bfloat16",
    "rate_schedule": "cosine",
    "order": "random",
    "loss_text": "joined",
    "rollout_text": "joined",
    "target": "frozen",
    "rollout_model": "original",
    "trainable": "full",
    "texts": "phrasings",
    "tokens": "content",
    "matrices": "k",
    "guide": "tree",
    "anchor": "tree",
    "erase_scale": 1.5,
    "ridge": 0.7,
    "num_epochs": 2,
    "reg": 0.2,
    "repeat_guide": "tree",
    "repeat_tokens": "content",
    "repeat_erase_scale": 1.5,
    "repeat_keep_scale": 0.5,
    "repeat_ridge": 0.2,
    "repeat_keep": "keep",
    "pin_slack": 0.1,
    "num_centres": 2,
    "retain": "null",
    "threshold": 1.0,
    "influence_filter": False,
    "num_augment": 0,
    "num_directions": 2,
    "seed": 5,
}
"""Another value than the presets'."""
SECOND: dict[str, Any] = {
    "rate_schedule": "constant",
    "ema_warmup": False,
    "order": "cyclic",
    "loss_text": "each",
    "rollout_text": "each",
    "rollout_model": "student",
    "eta": 2.0,
    "keep_share": 0.3,
    "keep_scale": 1.5,
    "null_space": 0.2,
    "texts": "erase",
    "num_epochs": 3,
    "retain": "keep",
    "influence_filter": True,
    "num_augment": 1,
    "repeat_ridge": 0.3,
    "ridge": 0.9,
    "timesteps": "uniform",
    "keep_sampling": "uniform",
}
"""Where a preset has the first."""
OTHER["keep_scale"] = 1.5

ONE_ROW = "a batch of one has no row for kept texts"
NO_KEPT = "without kept rows there is nothing to weigh"
NO_AVERAGE = "without an average there is nothing to warm up"
NO_WAY_BACK = "no way back is looked for"
NO_NOISE = "nothing is perturbed"
TOO_SHORT = "in so few steps nothing goes"
IDLE: Mapping[tuple[str, str], Mapping[str, str]] = {
    **{
        (method, preset): {
            "way_back_reg": NO_WAY_BACK,
            **({"stop_at": TOO_SHORT} if params.target == "frozen" else {}),
            **({"keep_share": ONE_ROW, "keep_weight": NO_KEPT} if not params.keep_share else {}),
            **({"ema_warmup": NO_AVERAGE} if not params.ema_decay else {}),
        }
        for method, presets in PRESETS.items()
        for preset, params in presets.items()
    },
    ("speed", "safediff"): {"num_directions": NO_NOISE},
}
"""Knobs that act on nothing in a preset as it is."""

PUSH = "the target is the student's own answer"
PLAIN = "the null space is one of keys and values"
NO_START = "a warm start is one of keys and values, and influence is that of the start"
_NO_START = {"warm_start": NO_START, "keep_sampling": NO_START}
FEW = "an update of low rank, and a way back, are of attention to the text"
REFUSED: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("sdd", "safediff"): {"trainable": PLAIN, "target": PUSH, "keep_sampling": NO_START},
    ("sdd", "fast"): {"trainable": PLAIN, "target": PUSH},
    ("sdd", "paper"): {"stop_at": PUSH, "eta": PUSH, "null_space": PLAIN, **_NO_START},
    ("sdd", "repo"): {"stop_at": PUSH, "eta": PUSH, "null_space": PLAIN, **_NO_START},
    ("esd-x", "eta-3"): {"null_space": PLAIN, "target": PUSH, **_NO_START},
    ("esd-x", "eta-1"): {"null_space": PLAIN, "target": PUSH, **_NO_START},
    ("esd-x", "strict"): {"target": PUSH, "keep_sampling": NO_START},
    ("esd-u", "eta-3"): {
        **{"null_space": PLAIN, "target": PUSH},
        **{"lora_rank": FEW, "way_back_share": FEW, **_NO_START},
    },
    ("esd-u", "eta-1"): {
        **{"null_space": PLAIN, "target": PUSH},
        **{"lora_rank": FEW, "way_back_share": FEW, **_NO_START},
    },
}
"""Knobs whose other value does not go with the rest of a preset: a policy hears so at once."""

ACTS_BESIDE: Mapping[str, Mapping[str, Any]] = {
    "trainable": {"null_space": 0.0, "warm_start": 0.0, "keep_sampling": "uniform"},
    "target": {"eta": 0.0},
    "stop_at": {
        **{"target": "frozen", "loss_text": "each", "trainable": "kv", "batch_size": 4},
        **{"num_steps": 40, "learning_rate": 1e-2},
    },
    "eta": {"target": "frozen"},
    "null_space": {"trainable": "kv"},
    "warm_start": {"trainable": "kv"},
    "keep_sampling": {"trainable": "kv", "warm_start": 0.5, "batch_size": 4, "keep_share": 0.5},
    "lora_rank": {"trainable": "kv"},
    "way_back_share": {"trainable": "kv"},
    "way_back_reg": {"trainable": "kv", "way_back_share": 0.9},
    "keep_share": {"batch_size": 3},
    "keep_weight": {"batch_size": 3, "keep_share": 0.4},
    "ema_warmup": {"ema_decay": 0.9},
    "num_directions": {"num_augment": 1},
}
"""For each knob of these two lists, the settings beside which it acts."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return small_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def known() -> dict[Any, tuple[str, ...]]:
    return {}


def shrunk(method: str, preset: str) -> dict[str, Any]:
    """What makes a distillation short; of large batches some rows stay, kept ones among them."""
    if method not in PRESETS:
        return {}
    return {**SHRUNK, "batch_size": min(4, PRESETS[method][preset].batch_size)}


def outcome(backbone: Backbone, known: dict[Any, tuple[str, ...]], params: Any) -> tuple[str, ...]:
    if params not in known:
        if isinstance(params, DistilParams):
            erased = small_trainer(backbone, params, seed=7).run(lambda info: None)
            patches = [erased.teacher, *([erased.student] if erased.student else [])]
        else:
            patches = [solve(backbone, CONCEPTS, KEEP, params)]
        known[params] = tuple(state_sha256(patch.tensors) for patch in patches)
    return known[params]


def another(params: Any, knob: str) -> Any:
    now = getattr(params, knob)
    value = OTHER[knob] if OTHER[knob] != now else SECOND.get(knob)
    if knob == "target" and now == "frozen":
        value = "student"
    assert value is not None
    assert value != now
    return value


@pytest.mark.parametrize(("method", "preset"), PAIRS)
def test_every_knob_of_a_preset_acts(
    backbone: Backbone, known: dict[Any, tuple[str, ...]], method: str, preset: str
) -> None:
    before = resolve(method, preset, shrunk(method, preset))
    plain = outcome(backbone, known, before)
    idle, refused = set(), set()
    for field in fields(before):
        if field.name in WITHOUT_EFFECT:
            continue
        change = {field.name: another(before, field.name)}
        try:
            after = resolve(method, preset, {**shrunk(method, preset), **change})
        except UsageError:
            refused.add(field.name)
            continue
        if outcome(backbone, known, after) == plain:
            idle.add(field.name)
    assert refused == set(REFUSED.get((method, preset), {}))
    assert idle == set(IDLE.get((method, preset), {}))


def hidden(method: str, preset: str) -> list[str]:
    """Knobs that change nothing in a preset as it is, or are refused in it."""
    lists = (IDLE.get((method, preset), {}), REFUSED.get((method, preset), {}))
    return sorted({knob for found in lists for knob in found})


@pytest.mark.parametrize(("method", "preset"), [pair for pair in PAIRS if hidden(*pair)])
def test_a_knob_that_a_preset_hides_acts_beside_what_it_needs(
    backbone: Backbone, known: dict[Any, tuple[str, ...]], method: str, preset: str
) -> None:
    for knob in hidden(method, preset):
        beside = {**shrunk(method, preset), **ACTS_BESIDE[knob]}
        without = resolve(method, preset, beside)
        with_it = resolve(method, preset, {**beside, knob: another(without, knob)})
        assert outcome(backbone, known, with_it) != outcome(backbone, known, without), knob


def test_no_knob_is_forgotten() -> None:
    assert {knob for pair in PAIRS for knob in hidden(*pair)} == set(ACTS_BESIDE)
    for method, preset in PAIRS:
        names = {field.name for field in fields(METHODS[method].presets[preset])}
        assert names - WITHOUT_EFFECT <= set(OTHER), (method, preset)
        listed = {*IDLE.get((method, preset), {}), *REFUSED.get((method, preset), {})}
        assert listed <= names


def test_what_needs_no_effect_has_none_here(
    backbone: Backbone, known: dict[Any, tuple[str, ...]]
) -> None:
    params = resolve("sdd", "safediff", shrunk("sdd", "safediff"))
    plain = outcome(backbone, known, params)
    assert outcome(backbone, known, replace(params, log_every=1, save_every_s=0.0)) == plain
    assert set(asdict(params)) >= WITHOUT_EFFECT
