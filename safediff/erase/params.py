"""Knobs of the erasers that distil, and their presets.

SDD (arXiv:2307.05977) and ESD (arXiv:2303.07345) roll out latents, compare noise predictions and
take a step; they differ in these settings only. ``paper`` and ``repo`` are the two published
readings of SDD (they disagree on which text is joined and on three numbers); ``safediff`` is our
own, and ``fast`` begins at a closed-form edit, takes a fifth of its UNet passes and keeps less of
the neighbours: see ``docs/erase.md`` for the measurements that they rest on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from safediff.erase.knobs import Bounds
from safediff.errors import UsageError
from safediff.policy.plan import SchedulerName

Count = Annotated[int, Bounds(at_least=1)]
Number = Annotated[float, Bounds(at_least=0)]
Share = Annotated[float, Bounds(at_least=0, below=1)]
Trainable = Literal["kv", "xattn", "selfattn", "noxattn", "full"]


@dataclass(frozen=True, kw_only=True)
class DistilParams:
    """Settings of a distillation; one loss is one optimiser step."""

    num_steps: Count = 1300
    """Optimiser steps."""
    stop_at: Share = 0.0
    """Take no more steps once less than this is left of every erase text, of the 1 that was there
    (``safediff.erase.remaining``; needs ``target: frozen`` and a ``loss_text`` that is not joined);
    0: all of ``num_steps``."""
    learning_rate: Number = 1e-5
    rate_schedule: Literal["constant", "cosine"] = "constant"
    """cosine: from the learning rate down to zero over ``num_steps``."""
    weight_decay: Number = 1e-2
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Number = 1e-8
    max_grad_norm: Annotated[float, Bounds(above=0)] = 1.0
    ema_decay: Share = 0.998
    """m of the teacher, theta_bar <- m theta_bar + (1 - m) theta."""
    ema_warmup: bool = False
    """Use min(m, (1 + step) / (10 + step)), so that no part of the start remains in the teacher."""
    guidance_scale: Number = 3.0
    """s_g of the rollout."""
    num_inference_steps: Annotated[int, Bounds(at_least=1, below=1001)] = 50
    """N, steps of a whole trajectory."""
    rollout_scheduler: SchedulerName = "ddim"
    """Takes the steps of the rollout; model: the one that draws the pictures. With flow matching
    ddim means that one too."""
    loss_timestep: Literal["bin", "step"] = "bin"
    """t of the loss: uniform among the training timesteps that a step spans, as in SDD's code, or
    the very one that the latents are at, which models of few steps know alone."""
    rollout_model: Literal["teacher", "student", "original"] = "teacher"
    """Who draws the latents: SDD's EMA teacher, ESD's student, or the untouched model."""
    timesteps: Literal["uniform", "beta", "early"] = "uniform"
    """u uniform, or floor(N Beta(3, 3)) (arXiv:2407.21032), or uniform in the first half, where
    it is decided what a picture shows."""
    batch_size: Count = 1
    """Trajectories per rollout; they share u."""
    reuse: Count = 1
    """Losses (optimiser steps) per rollout, each at its own u."""
    trainable: Trainable = "xattn"
    """kv: attn2.to_k and to_v; xattn: all of attn2; selfattn: attn1; noxattn: all but attn2,
    output and time layers; full: everything. Where text and picture attend to each other in one
    attention (SD3, FLUX), the text's projections stand for attn2: see docs/transformers.md."""
    loss_text: Literal["joined", "each", "phrasings"] = "joined"
    """c_s: all erase texts joined by ", "; one erase text; or one phrasing of it."""
    rollout_text: Literal["joined", "each", "phrasings"] = "each"
    """c_p, likewise."""
    order: Literal["cyclic", "random", "remaining"] = "cyclic"
    """How the erase texts of a rollout are chosen: in turn, at random, or more often those of which
    more is left (``safediff.erase.remaining``; needs what ``stop_at`` needs)."""
    target: Literal["student", "frozen"] = "student"
    """Whose answer to the empty prompt is the target: the student's own, or the original's."""
    eta: Number = 0.0
    """Push beyond the empty prompt (ESD, arXiv:2303.07345, eq. 5): the target is
    e_orig(c_0) - eta (e_orig(c_s) - e_orig(c_0)); needs ``target: frozen``."""
    anchor_weight: Number = 0.0
    """Weight of mean |eps(z, t, c_0) - eps_orig(z, t, c_0)|^2."""
    keep_share: Share = 0.0
    """Share of each batch on kept texts, with the original's prediction as the target."""
    keep_weight: Number = 1.0
    null_space: Number = 0.0
    """lambda of the soft null-space projector relative to the mean energy of kept tokens; 0: off
    (kv only)."""
    warm_start: Number = 0.0
    """a, how much the erased texts weigh in the closed-form edit that training starts from
    (``safediff.erase.warm_start``), against the size of the edit; 0: the base's own weights (kv
    only)."""
    keep_sampling: Literal["uniform", "influence"] = "uniform"
    """How kept texts are chosen: all alike, or more often those that the warm start changes
    more."""
    way_back_share: Share = 0.0
    """Share of the rows to erase whose c_s is RECE's c', by which the keys and values as they are
    now lead back to the concept (arXiv:2407.12383); found anew for every rollout."""
    way_back_reg: Annotated[float, Bounds(above=0)] = 0.1
    """Weight of |c'|^2 in finding it."""
    lora_rank: Annotated[int, Bounds(at_least=0)] = 0
    """Train an update B A of this rank instead of whole matrices (LoRA, arXiv:2106.09685); 0: off.
    The teacher averages the factors, not their product, so it is an adapter of the same rank."""
    trunk_dtype: Literal["model", "bfloat16", "float16"] = "model"
    """Precision of the frozen UNet while it is trained around; model: as the policy loads it. What
    is trained, its average and Adam's moments are float32 in any case."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    micro_batch: Annotated[int, Bounds(at_least=0)] = 0
    """Most rows in one UNet call; gradients of a batch are then summed part by part. 0: all."""
    offload: bool = True
    """Text encoders and VAE wait in main memory while a UNet on a GPU is trained."""
    offload_average: bool = False
    """The moving average waits there too, and visits the GPU tensor by tensor to be updated."""
    channels_last: bool = False
    """Memory layout of the convolutions."""
    compile: bool = False
    """torch.compile, used only after its gradients were compared with eager ones."""
    log_every: Count = 10
    save_every_s: Number = 120.0
    """Least seconds between checkpoints, which are written at the end of a rollout; 0: of each."""


_SAME = (
    *("gradient_checkpointing", "micro_batch", "offload", "offload_average", "channels_last"),
    "compile",
)
WITHOUT_EFFECT = (*_SAME, "log_every", "save_every_s")
"""Knobs of memory, speed and files: the same training comes of them (``docs/memory.md``)."""
MEMORY = ("trunk_dtype", *_SAME)
"""Knobs of memory and speed."""
HOW_IT_RUNS = ("trunk_dtype", *WITHOUT_EFFECT)
"""No other model comes of them but for rounding."""


def num_kept(params: DistilParams) -> int:
    """Rows of each batch that kept texts get, where there are any."""
    return round(params.keep_share * params.batch_size)


def asks_concept(params: DistilParams) -> bool:
    """Whether a step asks the original about the text to erase, too."""
    return params.eta > 0 or params.order == "remaining" or params.stop_at > 0


def early_steps(num_inference_steps: int) -> int:
    """How many values of u count as early: the first half, rounded up."""
    return (num_inference_steps + 1) // 2


def step_weights(params: DistilParams) -> list[float]:
    """How often each u in {0 .. N-1} is drawn for a loss, relative to the others."""
    n = params.num_inference_steps
    if params.timesteps == "beta":
        places = ((u + 0.5) / n for u in range(n))
        return [(x * (1 - x)) ** 2 for x in places]  # the density of Beta(3, 3), up to a factor
    num_drawn = early_steps(n) if params.timesteps == "early" else n
    return [1.0] * num_drawn + [0.0] * (n - num_drawn)


_ESD = DistilParams(
    num_steps=1000,
    weight_decay=1e-4,
    ema_decay=0.0,
    rollout_model="student",
    loss_text="each",
    rollout_text="each",
    order="random",
    target="frozen",
    eta=3.0,
)
"""ESD as the SDD paper compares it (ESD-x-3, ESD-u-3); no moving average."""

_ESD_FIRST = replace(_ESD, eta=1.0, weight_decay=0.0)
"""The authors' first code: Adam, eta 1."""

_SAFEDIFF = DistilParams(
    num_steps=256,
    learning_rate=1.1e-2,
    rate_schedule="cosine",
    weight_decay=0.0,
    ema_decay=0.95,
    ema_warmup=True,
    num_inference_steps=20,
    timesteps="early",
    batch_size=24,
    reuse=4,
    trainable="kv",
    loss_text="phrasings",
    rollout_text="phrasings",
    target="frozen",
    eta=0.35,
    keep_share=0.7,
    null_space=0.01,
)

PRESETS: Mapping[str, Mapping[str, DistilParams]] = {
    "sdd": {
        "safediff": _SAFEDIFF,
        "fast": replace(
            _SAFEDIFF,
            num_steps=128,
            learning_rate=4.5e-3,
            num_inference_steps=10,
            batch_size=12,
            eta=0.33,
            keep_share=0.75,
            warm_start=0.4,
            keep_sampling="influence",
        ),
        "paper": DistilParams(),
        "repo": DistilParams(
            num_steps=1500,
            ema_decay=0.999,
            weight_decay=1e-4,
            loss_text="each",
            rollout_text="joined",
        ),
    },
    "esd-x": {
        "eta-3": _ESD,
        "eta-1": _ESD_FIRST,
        "strict": replace(
            _ESD_FIRST,
            num_steps=200,
            learning_rate=5e-5,
            rollout_model="original",
            trainable="kv",
        ),
    },
    "esd-u": {
        "eta-3": replace(_ESD, trainable="noxattn"),
        "eta-1": replace(_ESD_FIRST, trainable="noxattn"),
    },
}
"""By method, then by name; a method's first preset is its default."""


def check_together(params: DistilParams) -> None:
    """Knobs that fit one by one must fit together.

    Raises:
        UsageError: they do not.
    """
    if params.reuse > params.num_inference_steps:
        raise UsageError("erase.options.reuse: must not exceed num_inference_steps")
    if params.timesteps == "early" and params.reuse > early_steps(params.num_inference_steps):
        raise UsageError(
            "erase.options.reuse: must not exceed half of num_inference_steps with timesteps: early"
        )
    if num_kept(params) == params.batch_size:
        raise UsageError(
            "erase.options.keep_share: leaves no row of a batch for what is erased",
            "lower it or raise batch_size",
        )
    if params.eta and params.target != "frozen":
        raise UsageError(
            "erase.options.eta: pushes away from the original's answer", "set target: frozen"
        )
    _check_remaining(params)
    if params.null_space and params.trainable != "kv":
        raise UsageError(
            "erase.options.null_space: works on keys and values only", "set trainable: kv"
        )
    if params.warm_start and params.trainable != "kv":
        raise UsageError(
            "erase.options.warm_start: solves for keys and values only", "set trainable: kv"
        )
    if params.keep_sampling == "influence" and not params.warm_start:
        raise UsageError(
            "erase.options.keep_sampling: influence is that of the warm start",
            "set warm_start, for example to 0.3",
        )
    if params.way_back_share and params.trainable not in ("kv", "xattn", "full"):
        raise UsageError(
            "erase.options.way_back_share: leads back through keys and values, which stay as they "
            f"are with trainable: {params.trainable}",
            "set trainable: kv or xattn",
        )
    if params.lora_rank and params.trainable in ("noxattn", "full"):
        raise UsageError(
            "erase.options.lora_rank: works on attention matrices only",
            "set trainable: kv, xattn or selfattn",
        )


def _check_remaining(params: DistilParams) -> None:
    """What remains is measured on the original's answers, to one erase text at a time.

    Raises:
        UsageError: it is asked for, and there are no such answers.
    """
    for knob, asked in (("order", params.order == "remaining"), ("stop_at", params.stop_at > 0)):
        if asked and params.target != "frozen":
            raise UsageError(
                f"erase.options.{knob}: what remains is measured on the original's answers",
                "set target: frozen",
            )
        if asked and params.loss_text == "joined":
            raise UsageError(
                f"erase.options.{knob}: what remains is measured on each erase text, not on all of "
                "them joined",
                "set loss_text: each",
            )
