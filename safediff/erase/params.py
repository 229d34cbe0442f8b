"""Knobs of SDD and its presets.

``paper`` and ``repo`` are the two published readings (arXiv:2307.05977; they disagree on which
text is joined and on three numbers). ``safediff`` is our own: see ``docs/erase.md`` for the
ablation that it rests on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from safediff.errors import UsageError

Trainable = Literal["kv", "xattn", "selfattn", "noxattn", "full"]


@dataclass(frozen=True, kw_only=True)
class SddParams:
    """Settings of SDD; one loss is one optimiser step."""

    num_steps: int = 1300
    """Optimiser steps."""
    learning_rate: float = 1e-5
    weight_decay: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    ema_decay: float = 0.998
    """m of the teacher, theta_bar <- m theta_bar + (1 - m) theta."""
    ema_warmup: bool = False
    """Use min(m, (1 + step) / (10 + step)), so that no part of the start remains in the teacher."""
    guidance_scale: float = 3.0
    """s_g of the rollout."""
    num_inference_steps: int = 50
    """N, DDIM steps of a whole trajectory."""
    timesteps: Literal["uniform", "beta"] = "uniform"
    """u uniform, or floor(N Beta(3, 3)) (arXiv:2407.21032)."""
    batch_size: int = 1
    """Trajectories per rollout; they share u."""
    reuse: int = 1
    """Losses (optimiser steps) per rollout, each at its own u."""
    trainable: Trainable = "xattn"
    """kv: attn2.to_k and to_v; xattn: all of attn2; selfattn: attn1; noxattn: all but attn2,
    conv_out and time_embedding; full: everything."""
    loss_text: Literal["joined", "each", "phrasings"] = "joined"
    """c_s: all erase texts joined by ", "; one erase text; or one phrasing of it."""
    rollout_text: Literal["joined", "each", "phrasings"] = "each"
    """c_p, likewise."""
    order: Literal["cyclic", "random"] = "cyclic"
    """How the concept of a rollout is chosen where only one is used."""
    target: Literal["student", "frozen"] = "student"
    """Whose answer to the empty prompt is the target: the student's own, or the original's."""
    anchor_weight: float = 0.0
    """Weight of mean |eps(z, t, c_0) - eps_orig(z, t, c_0)|^2."""
    keep_share: float = 0.0
    """Share of each batch on kept texts, with the original's prediction as the target."""
    keep_weight: float = 1.0
    null_space: float = 0.0
    """lambda of the soft null-space projector relative to the mean energy of kept tokens; 0: off
    (kv only)."""
    log_every: int = 10
    save_every: int = 20
    """Rollouts between checkpoints."""


PRESETS: Mapping[str, SddParams] = {
    "paper": SddParams(),
    "repo": SddParams(
        num_steps=1500,
        ema_decay=0.999,
        weight_decay=1e-4,
        loss_text="each",
        rollout_text="joined",
    ),
    "safediff": SddParams(
        num_steps=96,
        learning_rate=2e-3,
        weight_decay=0.0,
        ema_decay=0.95,
        ema_warmup=True,
        num_inference_steps=20,
        batch_size=10,
        reuse=4,
        trainable="kv",
        loss_text="phrasings",
        rollout_text="phrasings",
        order="random",
        target="frozen",
        null_space=0.01,
    ),
}


def resolve(preset: str, options: Mapping[str, Any]) -> SddParams:
    """The preset with the policy's overrides.

    Raises:
        UsageError: an unknown preset or knob, or a value of the wrong type or range.
    """
    if preset not in PRESETS:
        raise UsageError(f"erase.preset: unknown preset {preset!r}", f"use {', '.join(PRESETS)}")
    types = get_type_hints(SddParams)
    known = {f.name for f in fields(SddParams)}
    for name, value in options.items():
        if name not in known:
            raise UsageError(
                f"erase.options: unknown knob {name!r} of sdd", f"known: {', '.join(sorted(known))}"
            )
        _check_type(name, value, types[name])
    params = replace(PRESETS[preset], **options)
    _check_range(params)
    return params


def _check_type(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        good = value in get_args(kind)
        expected = " or ".join(map(str, get_args(kind)))
    elif kind is float:
        good, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    else:
        good, expected = type(value) is kind, kind.__name__
    if not good:
        raise UsageError(f"erase.options.{name}: {value!r} is not {expected}")


def _check_range(params: SddParams) -> None:
    for name in ("num_steps", "num_inference_steps", "batch_size", "reuse", "save_every"):
        if getattr(params, name) < 1:
            raise UsageError(f"erase.options.{name}: must be at least 1")
    if params.reuse > params.num_inference_steps:
        raise UsageError("erase.options.reuse: must not exceed num_inference_steps")
    for name in ("keep_share", "ema_decay"):
        if not 0 <= getattr(params, name) < 1:
            raise UsageError(f"erase.options.{name}: must be in [0, 1)")
    if params.null_space and params.trainable != "kv":
        raise UsageError(
            "erase.options.null_space: works on keys and values only", "set trainable: kv"
        )
