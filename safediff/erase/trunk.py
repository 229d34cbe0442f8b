"""The frozen UNet while it is trained around: precision, memory layout, recomputation.

One trunk serves student, teacher and original; they differ in the replaced tensors only. Whatever
is changed here about the model is undone on leaving.
"""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from safediff.erase.params import DistilParams
from safediff.erase.weights import PatchedUNet, Student
from safediff.errors import Inconclusive, UsageError, lacking_memory
from safediff.models.backbone import Backbone, Condition
from safediff.models.fast import products_by_onednn

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Largest relative difference of a gradient that compiling may make, by the trunk's precision."""


@contextmanager
def trunk(backbone: Backbone, params: DistilParams) -> Iterator[Backbone]:
    """The backbone as training sees it, around a ``PatchedUNet`` without replacements.

    Raises:
        UsageError: the UNet cannot compute its activations again.
    """
    with ExitStack() as undo:
        if params.offload:
            undo.enter_context(_offloaded(backbone))
        unet = undo.enter_context(_in_precision(backbone.denoiser, params.trunk_dtype))
        if params.gradient_checkpointing:
            undo.enter_context(_checkpointing(unet))
        if params.channels_last:
            unet.to(memory_format=torch.channels_last)
            undo.callback(unet.to, memory_format=torch.contiguous_format)
        call = torch.compile(_call) if params.compile else functional_call
        if not params.compile:
            undo.enter_context(products_by_onednn(unet))
        yield backbone.with_denoiser(PatchedUNet(unet, {}, call, params.micro_batch))


def _call(unet: Any, weights: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
    return functional_call(unet, weights, args, kwargs)


@contextmanager
def _offloaded(backbone: Backbone) -> Iterator[None]:
    """Everything but the UNet is in main memory; texts are encoded already."""
    parts = [getattr(backbone, field.name) for field in fields(backbone)]
    away = [p for p in parts if isinstance(p, nn.Module) and p is not backbone.denoiser]
    devices = [next(part.parameters()).device for part in away]
    for part in away:
        part.to("cpu")
    try:
        yield
    finally:
        for part, device in zip(away, devices, strict=True):
            part.to(device)


@contextmanager
def _in_precision(unet: Any, name: str) -> Iterator[Any]:
    """The UNet, or a copy in the named precision; meanwhile the UNet waits in main memory."""
    first = next(unet.parameters())
    dtype, device = DTYPES.get(name, first.dtype), first.device
    if dtype == first.dtype:
        yield unet
        return
    unet.to("cpu")
    try:
        yield _cast_copy(unet, dtype, device)
    finally:
        unet.to(device)


def _cast_copy(unet: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A copy whose parameters are cast one by one, never held twice in the old precision."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(device, dtype), requires_grad=False)
        for p in unet.parameters()
    }
    for buffer in unet.buffers():
        memo[id(buffer)] = buffer.to(device, dtype if buffer.is_floating_point() else buffer.dtype)
    return copy.deepcopy(unet, memo)


@contextmanager
def _checkpointing(unet: Any) -> Iterator[None]:
    """Blocks compute their activations again in the backward pass.

    By then the replaced tensors are no longer in the UNet, so each block takes along those that it
    had. diffusers does this wherever gradients are on; nothing depends on training mode.
    """
    if not getattr(unet, "_supports_gradient_checkpointing", False):
        raise UsageError(
            f"erase.options.gradient_checkpointing: {type(unet).__name__} has no support for it",
            "leave it out",
        )
    unet.enable_gradient_checkpointing(_again)
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


def _again(block: nn.Module, *args: Any) -> Any:
    weights: dict[str, Tensor] = dict(block.named_parameters())

    def run(*inputs: Any) -> Any:
        return functional_call(block, weights, inputs)

    return checkpoint(run, *args, use_reentrant=False)


def check_compiled(trunk: Backbone, student: Student, texts: Condition) -> None:
    """Hold the compiled trunk's answer and gradients against eager ones, on two random latents.

    Raises:
        Inconclusive: they differ, or nothing can be compiled here.
    """
    eager = trunk.with_denoiser(PatchedUNet(trunk.denoiser.unet, {}))
    expected = _probe(eager, student, texts)
    try:
        found = _probe(trunk, student, texts)
    except Exception as error:  # compilers fail in many ways
        if lacking_memory(error):
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        message = f"erase.options.compile: {type(error).__name__}: {first[:200]}"
        raise Inconclusive(message, "leave it out") from error
    limit = TOLERANCE[trunk.denoiser.dtype]
    for what, a, b in zip(("answer", "gradient"), found, expected, strict=True):
        difference = float((a - b).norm() / b.norm())
        if not difference <= limit:
            raise Inconclusive(
                f"erase.options.compile: the compiled {what} differs from the eager one by "
                f"{difference:.1e}, more than {limit:g}, relative",
                "leave it out",
            )


def _probe(trunk: Backbone, student: Student, texts: Condition) -> tuple[Tensor, Tensor]:
    """The answer, and its gradient with respect to the student's values, flat."""
    c = texts.repeat(2)
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, *trunk.latent_shape, generator=g).to(c.hidden.device)
    goal = torch.randn(z.shape, generator=g).to(z)
    seen = trunk.with_denoiser(trunk.denoiser.replaced(student.weights(dtype=trunk.denoiser.dtype)))
    answer = seen.denoise(z, torch.tensor([500, 20], device=z.device), c).float()
    scale = z.numel() / 2  # as in float16: a mean's gradient would underflow
    loss = F.mse_loss(answer, goal) * scale
    gradients = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    return answer.detach(), torch.cat([g.flatten() for g in gradients if g is not None])
