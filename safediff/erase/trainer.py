"""The trainer of SDD and ESD: rollout, loss, step, EMA (arXiv:2307.05977, algorithm 1)."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from safediff import __version__
from safediff.erase.checkpoint import Progress, load_checkpoint, save_checkpoint
from safediff.erase.closed_form.kv import KEYS_AND_VALUES, guided_pairs
from safediff.erase.hardening import harden
from safediff.erase.losses import Losses, null_drift
from safediff.erase.micro_batch import backward
from safediff.erase.null_space import second_moment, soft_projector
from safediff.erase.params import WITHOUT_EFFECT, DistilParams, asks_concept
from safediff.erase.possible import require_rollouts, require_text_path
from safediff.erase.remaining import update
from safediff.erase.rollout import State, draw_steps, rollout
from safediff.erase.texts import Batch, TextBank
from safediff.erase.trunk import check_compiled, trunk
from safediff.erase.warm_start import closed_form_start, influence
from safediff.erase.weights import PatchedUNet, Student, trainable_names
from safediff.errors import Inconclusive
from safediff.models.adapter import Adapter
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch, unet_sha256
from safediff.policy.plan import ConceptPlan, num_branches
from safediff.sample.shards import ALONE, Shards


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """What happened in one optimiser step."""

    step: int
    num_steps: int
    loss: float
    erase: float
    keep: float
    anchor: float
    grad_norm: float
    num_passes: int
    """UNet sample passes so far (a forward of one sample; forward and backward count three)."""
    null_drift: float | None
    """Relative; None on steps that do not log it."""
    most_left: float | None
    """What is left of the erase text that stands most; None where it is not measured."""


OnStep = Callable[[StepInfo], None]


@dataclass(frozen=True, kw_only=True)
class Erased:
    """Both results of a run."""

    teacher: Patch
    student: Patch | None
    """None without a moving average: then the teacher is the student."""
    adapter: Adapter | None
    """The teacher's factors, where a rank was asked for."""
    progress: Progress
    """With everything that it took."""

    @property
    def num_passes(self) -> int:
        """UNet sample passes, of all attempts."""
        return self.progress.num_passes


class DistilTrainer:
    """One run. State that changes: the student, the teacher, the optimiser, the step."""

    def __init__(
        self,
        backbone: Backbone,
        concepts: tuple[ConceptPlan, ...],
        keep: tuple[str, ...],
        params: DistilParams,
        seed: int,
        method: str = "sdd",
        shards: Shards = ALONE,
    ) -> None:
        """``method`` names the patch; what is done stands in ``params``.

        Several processes share the rows of every batch; each holds the same student.
        """
        self.began = time.monotonic()
        self.original, self.params, self.seed, self.keep = backbone, params, seed, keep
        self.method, self.shards = method, shards
        require_text_path(backbone, params)
        require_rollouts(backbone, params)
        self.trunk = backbone.with_denoiser(PatchedUNet(backbone.denoiser, {}))
        self.base_sha256 = unet_sha256(backbone.denoiser)
        self.texts = TextBank(backbone, concepts, keep, params.guidance_scale)
        if "joined" in (params.loss_text, params.rollout_text):
            _ = self.texts.joined  # encoded now: later the encoder may be elsewhere
        self.student = Student(
            backbone.denoiser,
            trainable_names(backbone.denoiser, params.trainable),
            self._projector(),
            rank=params.lora_rank,
            seed=seed,
        )
        if params.warm_start:
            self._warm_start()
        # its environment may ask for a gradient scaler, and ``loss_scale`` is one
        self.accelerator = Accelerator(mixed_precision="no")
        optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=params.learning_rate,
            betas=(params.beta1, params.beta2),
            eps=params.epsilon,
            weight_decay=params.weight_decay,
            fused=True if self.student.values[0].is_cuda else None,  # no temporaries
        )
        self.optimizer = self.accelerator.prepare(optimizer)
        self.average = self._average_at_start() if params.ema_decay else None
        self.progress = Progress(0, 0, 0)
        self.left = torch.ones(len(self.texts.units))
        """What is left of every erase text, on the CPU."""
        self.last_loss = math.nan

    @property
    def finished(self) -> bool:
        """Whether all steps were taken, or there is too little left to take more."""
        stop_at = self.params.stop_at
        enough = stop_at > 0 and float(self.left.max()) < stop_at  # a push goes below nothing left
        return enough or self.progress.step >= self.params.num_steps

    @property
    def teacher(self) -> list[Tensor]:
        """The moving average of the student's values; without one, these themselves."""
        return self.average or [value.detach() for value in self.student.values]

    def _average_at_start(self) -> list[Tensor]:
        """Copies of the student's values; those in main memory are page-locked for a GPU."""
        values = [value.detach() for value in self.student.values]
        if not self.params.offload_average:
            return [value.clone() for value in values]
        away = [value.to("cpu", copy=True) for value in values]
        return [value.pin_memory() for value in away] if values[0].is_cuda else away

    def _projector(self) -> Tensor | None:
        if not self.params.null_space:
            return None
        kept = self.original.key_states(self.texts.kept_tokens()).flatten(0, 1)
        if not self.original.reads_padding:
            kept = kept[self.original.spelt_tokens([*self.keep, ""]).flatten().to(kept.device)]
        return soft_projector(second_moment(kept), self.params.null_space)

    def _warm_start(self) -> None:
        """Let the student begin at the closed-form edit, and hear kept texts by its influence."""
        spoken = [pair for bank in self.texts.spoken for pair in bank]
        pairs, student = guided_pairs(self.original, spoken), self.student
        base = {name: w.float() for name, w in student.base.items()}
        start = closed_form_start(base, pairs, student.projector, self.params.warm_start)
        student.begin_at(start)
        if self.params.keep_sampling == "influence" and self.texts.keep is not None:
            kept = self.original.key_states(self.texts.keep.to(self.texts.device))
            with torch.no_grad():
                self.texts.keep_weights = influence(base, student.weights(), kept)

    @property
    def key(self) -> str:
        """Identifies base, texts and settings: a checkpoint continues under an equal key only."""
        settings = sorted((k, v) for k, v in asdict(self.params).items() if k not in WITHOUT_EFFECT)
        parts = (__version__, self.base_sha256, settings, self.seed, self.texts.units, self.keep)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def seen(self, weights: Mapping[str, Tensor]) -> Backbone:
        """The backbone with the given tensors in its UNet."""
        return self.trunk.with_denoiser(self.trunk.denoiser.replaced(weights))

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint; ``run`` then ends with the same bytes (on a CPU).

        Raises:
            UsageError: the checkpoint belongs to another plan.
            Inconclusive: the file is damaged.
        """
        self.progress = load_checkpoint(
            *(checkpoint, self.key, self.student, self.average or []),
            *(self.left, self.optimizer.optimizer),
        )

    def run(self, on_step: OnStep, checkpoint: Path | None = None) -> Erased:
        """Train to the end, saving to ``checkpoint`` on the way, if this process leads.

        Raises:
            Inconclusive: the loss or the gradient is not finite, what was compiled computes
                something else, or another process has ended.
        """
        with trunk(self.original, self.params) as self.trunk:
            if self.params.compile:
                check_compiled(self.trunk, self.student, self.texts.each)
            self._train(on_step, checkpoint)
        self.trunk = self.original.with_denoiser(PatchedUNet(self.original.denoiser, {}))
        return Erased(
            teacher=self._patch(self.teacher, "teacher"),
            student=self._student_patch(),
            adapter=self._adapter(),
            progress=self._timed(),
        )

    def _timed(self) -> Progress:
        """The progress with what this attempt took until now; ``progress`` has the earlier ones."""
        earlier, seconds = self.progress, time.monotonic() - self.began
        return replace(
            earlier,
            seconds=earlier.seconds + seconds,
            process_seconds=earlier.process_seconds + seconds * self.shards.count,
        )

    def _train(self, on_step: OnStep, checkpoint: Path | None) -> None:
        saved = time.monotonic()
        while not self.finished:
            self._one_rollout(on_step)
            due = self.finished or time.monotonic() - saved >= self.params.save_every_s
            if checkpoint is not None and self.shards.leads and due:
                save_checkpoint(
                    *(checkpoint, self._timed(), self.key, self.student, self.average or []),
                    *(self.left, self.optimizer.optimizer),
                )
                saved = time.monotonic()

    def _one_rollout(self, on_step: OnStep) -> None:
        params, index = self.params, self.progress.num_rollouts
        generator = torch.Generator().manual_seed(rollout_seed(self.seed, index))
        batch = self.texts.draw(index, params, generator, self.left)
        steps = draw_steps(params, generator)
        if params.way_back_share:
            batch = self._harden(batch, generator)
        num_rows = len(batch.c_p)
        branches = num_branches(params.guidance_scale, self.original.distilled_guidance)
        null = self.texts.null.repeat(num_rows)
        model, done = self._rollout_model(), 0
        states = rollout(model, null, batch.c_p, steps, params, generator, self.shards)
        del model  # tensors that were computed or cast for it need not live through the steps
        for state in states:
            self._count(passes=branches * num_rows * (state.num_evaluations - done))
            done = state.num_evaluations
            if not self.finished:
                self._one_step(self.progress.step, state, batch, on_step)
        self._count(rollouts=1)

    @torch.no_grad()
    def _harden(self, batch: Batch, generator: torch.Generator) -> Batch:
        edited = {n: w for n, w in self.student.weights().items() if n.endswith(KEYS_AND_VALUES)}
        original = {name: self.student.base[name].float() for name in edited}
        return harden(batch, edited, original, self.params, generator)

    @torch.no_grad()
    def _rollout_model(self) -> Backbone:
        """Who rolls out, as it is now: the rollout is over before the first step."""
        if self.params.rollout_model == "original":
            return self.trunk
        of_teacher = self.params.rollout_model == "teacher"
        values = self.teacher if of_teacher else [*self.student.values]
        return self.seen(self.student.weights(values, self.trunk.denoiser.dtype))

    def _count(self, rollouts: int = 0, steps: int = 0, passes: int = 0) -> None:
        now = self.progress
        self.progress = replace(
            now,
            num_rollouts=now.num_rollouts + rollouts,
            step=now.step + steps,
            num_passes=now.num_passes + passes,
        )

    def _one_step(self, step: int, state: State, batch: Batch, on_step: OnStep) -> None:
        params = self.params
        mine = batch.share(self.shards)
        # accelerate's backward divides by what its environment says of gradient accumulation
        losses = backward(
            *(self.trunk, self.student, state, self.texts.null, mine, params, Tensor.backward)
        )
        losses = self._over_all(losses, len(batch.units))
        norm = self.accelerator.clip_grad_norm_(self.student.parameters(), params.max_grad_norm)
        grad_norm = float(norm)
        if not (math.isfinite(losses.total.item()) and math.isfinite(grad_norm)):
            raise Inconclusive(
                f"step {step}: loss {losses.total.item()}, gradient norm {grad_norm}: not finite",
                "lower erase.options.learning_rate or use float32",
            )
        self.last_loss = losses.total.item()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, params)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._update_teacher(step)
        if len(losses.presence):
            update(self.left, batch.units, losses.presence.cpu())
        self._count(steps=1, passes=_passes(len(batch.c_s), batch.num_erase, params))
        on_step(self._info(step, losses, grad_norm, state))

    def _over_all(self, losses: Losses, num_erase: int) -> Losses:
        """Gradients and terms over the rows of all processes: parts of means, so they add up."""
        if self.shards.count == 1:
            return losses
        for value in self.student.values:
            if value.grad is None:  # this process had no row
                value.grad = torch.zeros_like(value)
        *scalars, mine = losses
        terms = torch.stack(scalars).detach()
        left = terms.new_zeros(num_erase if asks_concept(self.params) else 0)
        left[self.shards.stripe] = mine
        grads = (v.grad for v in self.student.values if v.grad is not None)
        self.shards.sum([terms, left, *grads])
        return Losses(*terms)._replace(presence=left)

    @torch.no_grad()
    def _update_teacher(self, step: int) -> None:
        if self.average is None:
            return
        m = self.params.ema_decay
        if self.params.ema_warmup:
            m = min(m, (1 + step) / (10 + step))
        for mean, value in zip(self.average, self.student.values, strict=True):
            here = mean.to(value.device)  # itself, where it need not come from main memory
            mean.copy_(here.lerp_(value, 1 - m))

    def _info(self, step: int, losses: Losses, grad_norm: float, state: State) -> StepInfo:
        drift = None
        if step % self.params.log_every == 0 or self.finished:
            student = self.seen(self.student.weights())
            drift = null_drift(student, self.trunk, state, self.texts.null, self.shards)
        return StepInfo(
            step=step,
            num_steps=self.params.num_steps,
            loss=losses.total.item(),
            erase=losses.erase.item(),
            keep=losses.keep.item(),
            anchor=losses.anchor.item(),
            grad_norm=grad_norm,
            num_passes=self.progress.num_passes,
            null_drift=drift,
            most_left=float(self.left.max()) if asks_concept(self.params) else None,
        )

    @torch.no_grad()
    def _patch(self, values: list[Tensor], role: str) -> Patch:
        dtype = next(self.original.denoiser.parameters()).dtype
        tensors = {n: w.detach().to(dtype) for n, w in self.student.weights(values).items()}
        return Patch(
            tensors=tensors,
            base_sha256=self.base_sha256,
            metadata={"method": self.method, "role": role},
        )

    def _student_patch(self) -> Patch | None:
        if self.average is None:
            return None
        return self._patch([value.detach() for value in self.student.values], "student")

    @torch.no_grad()
    def _adapter(self) -> Adapter | None:
        return self.student.factors(self.teacher) if self.params.lora_rank else None


def rollout_seed(seed: int, index: int) -> int:
    """Of the ``index``-th rollout of a training, as torch takes it: 64 bits."""
    return (seed * 1_000_003 + index) % 2**64


def learning_rate(step: int, params: DistilParams) -> float:
    """The rate of one step under ``rate_schedule``."""
    if params.rate_schedule == "constant":
        return params.learning_rate
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * step / params.num_steps))


def _passes(num_rows: int, num_erase: int, params: DistilParams) -> int:
    """UNet sample passes of one loss: the targets, and the student's forward and backward."""
    push = num_erase if asks_concept(params) else 0
    anchors = 4 * num_erase if params.anchor_weight else 0
    return 4 * num_rows + push + anchors
