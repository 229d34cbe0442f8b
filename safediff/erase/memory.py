"""How much device memory erasing and sampling need, before any weight is loaded.

One rollout step, one loss and its gradients, and one batch of pictures are run on fake tensors,
which have shapes and precisions but no values, through the code that training and sampling run;
what is alive is counted operation by operation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel

from safediff.erase.live_bytes import LiveBytes
from safediff.erase.micro_batch import backward
from safediff.erase.params import DistilParams, Trainable, num_kept
from safediff.erase.rollout import State
from safediff.erase.texts import Batch
from safediff.erase.trunk import DTYPES as TRUNK_DTYPES
from safediff.erase.trunk import trunk
from safediff.erase.weights import Student, trainable_names
from safediff.models.architecture import Architecture
from safediff.models.backbone import Backbone, Condition
from safediff.models.fast import TEXT_PROJECTIONS, texts_once
from safediff.models.load import DTYPES
from safediff.models.skeleton import (
    skeleton_backbone,
    skeleton_condition,
    skeleton_unet,
    skeleton_vae,
)

GIB = 2**30
DRIVER = int(0.8 * GIB)
"""For the CUDA context, kernels and library workspaces: an allowance, not a measurement."""


@dataclass(frozen=True, kw_only=True)
class ErasingMemory:
    """Bytes on the device while a concept is distilled away, without the driver's."""

    trunk: int
    """The frozen UNet."""
    trained: int
    """Trained tensors in float32, their average, Adam's moments, and what they start from."""
    loaded: int
    """Text encoders and VAE, which are there until texts are encoded."""
    encoders: int
    """The same during training, where they stay."""
    rollout: int
    """What a rollout needs at its peak beyond those."""
    step: int
    """What a loss and its gradients need at their peak beyond those."""

    @property
    def total(self) -> int:
        """The peak of loading, reading texts and training."""
        return max(self.trunk + self.loaded, self.training)

    @property
    def training(self) -> int:
        """The peak from the first step on."""
        return self.trunk + self.trained + self.encoders + max(self.rollout, self.step)


@dataclass(frozen=True, kw_only=True)
class SamplingMemory:
    """Bytes on the device while pictures are drawn, without the driver's."""

    models: int
    """Text encoders, VAE, the base's UNet, and what is changed in those that share its rest."""
    denoising: int
    """What the steps of a batch need at their peak beyond those."""
    decoding: int
    """The same of its pictures afterwards."""

    @property
    def drawing(self) -> int:
        """The larger of the two."""
        return max(self.denoising, self.decoding)

    @property
    def total(self) -> int:
        """The peak."""
        return self.models + self.drawing


def erasing_memory(
    architecture: Architecture, params: DistilParams, dtype: str = "float32"
) -> ErasingMemory:
    """The peak of a distillation; ``dtype`` is that of the loaded model."""
    model_dtype = DTYPES[dtype]
    trunk_dtype = TRUNK_DTYPES.get(params.trunk_dtype, model_dtype)
    params = replace(params, trunk_dtype="model", channels_last=False, compile=False)
    with _fake() as live:
        unet = skeleton_unet(architecture, trunk_dtype)
        loaded = _encoder_bytes(architecture, model_dtype)
        frozen = live.now
        student, state_of_training = _training_state(unet, params, model_dtype)
        held = live.now
        backbone = skeleton_backbone(unet)
        text = skeleton_condition(architecture, 1)
        with trunk(backbone, params) as seen:
            live.reset_peak()
            with torch.no_grad():
                weights = student.weights(_who_rolls_out(student, params), trunk_dtype)
            _rollout_call(seen.with_denoiser(seen.denoiser.replaced(weights)), text, params)
            rollout = live.peak - held
            del weights
            live.reset_peak()
            _loss(seen, student, text, params)
            step = live.peak - held
        del state_of_training
    return ErasingMemory(
        trunk=frozen,
        trained=held - frozen,
        loaded=loaded,
        encoders=0 if params.offload else loaded,
        rollout=rollout,
        step=step,
    )


def sampling_memory(
    architecture: Architecture,
    batch_size: int,
    dtype: str = "float32",
    edited: Sequence[Trainable] = (),
    branches: int = 2,
    rows: int = 0,
) -> SamplingMemory:
    """The peak of drawing ``batch_size`` pictures at a time.

    Args:
        architecture: Of the base.
        batch_size: Pictures.
        dtype: Of the loaded model.
        edited: What is changed in every UNet that is held beside the base, and shares the rest.
        branches: What guidance asks of every picture and step; two if it is classifier-free.
        rows: Most rows of all branches that the UNet gets at a time; 0: all.
    """
    torch_dtype = DTYPES[dtype]
    with _fake() as live, torch.no_grad():
        unet = skeleton_unet(architecture, torch_dtype)
        unet_bytes = live.now
        state = dict(unet.named_parameters())
        changed = [state[name] for which in edited for name in trainable_names(unet, which)]
        edit_bytes = sum(tensor.numel() * tensor.element_size() for tensor in changed)
        vae = skeleton_vae(architecture, torch_dtype)
        held = live.now
        backbone = replace(skeleton_backbone(unet), vae=vae)
        text = skeleton_condition(architecture, batch_size, torch_dtype)
        z = torch.zeros(batch_size, *backbone.latent_shape, dtype=torch_dtype)
        live.reset_peak()
        _one_step(backbone, z, text, branches, rows)
        denoising = live.peak - held
        live.reset_peak()
        backbone.decode(z)
        decoding = live.peak - held
    models = unet_bytes + edit_bytes + _encoder_bytes(architecture, torch_dtype)
    return SamplingMemory(models=models, denoising=denoising, decoding=decoding)


def _one_step(model: Backbone, z: Tensor, text: Condition, branches: int, max_rows: int) -> None:
    """All branches of every picture, or the last of several parts of them."""
    texts, z_in = Condition.cat([text] * branches), torch.cat([z] * branches)
    done = max(0, len(z_in) - max_rows) if max_rows else 0
    answered = z_in[:done].clone()
    with texts_once(model.denoiser):
        if done:
            _remember(model.denoiser, texts.hidden[:done])
        rest = texts.rows(slice(done, None))
        torch.cat([answered, model.denoise(z_in[done:], torch.tensor(500), rest)])


def _remember(unet: nn.Module, hidden: Tensor) -> None:
    """Keys and values of texts, which are there from the first step of a batch to its last."""
    for name, layer in unet.named_modules():
        if name.endswith(TEXT_PROJECTIONS):
            layer(hidden)


@contextmanager
def _fake() -> Iterator[LiveBytes]:
    with FakeTensorMode(), LiveBytes() as live:
        yield live


def _encoder_bytes(architecture: Architecture, dtype: torch.dtype) -> int:
    """Text encoders and VAE."""
    with FakeTensorMode():
        vae = skeleton_vae(architecture, dtype)
        size: int = _count(vae) * vae.dtype.itemsize
        for config in architecture.text_encoders:
            size += _count(CLIPTextModel(CLIPTextConfig(**config))) * dtype.itemsize
    return size


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _training_state(
    unet: Any, params: DistilParams, model_dtype: torch.dtype
) -> tuple[Student, list[Tensor]]:
    """The student, and the rest of what lives from step to step."""
    names = trainable_names(unet, params.trainable)
    width = unet.config.cross_attention_dim
    projector = torch.zeros(width, width) if params.null_space else None
    student = Student(unet, names, projector, rank=params.lora_rank)
    averaged = params.ema_decay and not params.offload_average
    held = ("mean", "m", "v") if averaged else ("m", "v")
    rest = [torch.zeros_like(value) for value in student.values for _ in held]
    if unet.dtype != model_dtype:  # what the trained tensors start from is kept in its precision
        rest += [torch.zeros(w.shape, dtype=model_dtype) for w in student.base.values()]
    return student, rest


def _who_rolls_out(student: Student, params: DistilParams) -> Iterator[Tensor]:
    """The values, which are copies where they come from main memory."""
    comes = params.offload_average and params.ema_decay and params.rollout_model == "teacher"
    return (value.clone() if comes else value for value in student.values)


@torch.no_grad()
def _rollout_call(model: Backbone, text: Condition, params: DistilParams) -> None:
    """Both guidance branches of a batch, or as many rows of them as go at a time."""
    count = _rows_at_a_time(2 * params.batch_size, params)
    z = torch.zeros(count, *model.latent_shape)
    model.denoise(z, torch.tensor(500), text.repeat(count))


def _rows_at_a_time(count: int, params: DistilParams) -> int:
    return min(count, params.micro_batch or count)


def _loss(seen: Backbone, student: Student, text: Condition, params: DistilParams) -> None:
    """Of a whole batch, or of one part of it when others have left their gradients."""
    count = _rows_at_a_time(params.batch_size, params)
    num_erase = min(params.batch_size - num_kept(params), count)  # they have the most to ask
    if count < params.batch_size:
        for value in student.values:
            value.grad = torch.zeros_like(value)
    rows = text.repeat(count)
    batch = Batch(rows, rows, text.repeat(num_erase), num_erase)
    z = torch.zeros(count, *seen.latent_shape)
    state = State(z, torch.zeros(count, dtype=torch.long), 0)
    backward(seen, student, state, text, batch, params, Tensor.backward)
