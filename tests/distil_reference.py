"""One step of SDD and ESD written out in float64, without the code that it is held against.

Symbols as in arXiv:2307.05977 (SDD) and arXiv:2303.07345 (ESD). What is drawn at random is given;
everything that follows from it is computed here: the rollout, the loss and its gradient, clipping,
decoupled AdamW (arXiv:1711.05101, algorithm 2) and the moving average.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from safediff.erase.params import DistilParams

NUM_TRAIN = 1000


def trained(name: str, which: str) -> bool:
    """Whether an eraser of this kind changes the parameter, by a rule of the tests' own."""
    cross = ".attn2." in name
    return {
        "kv": cross and (".to_k." in name or ".to_v." in name),
        "xattn": cross,
        "noxattn": not cross and name.split(".")[0] not in ("conv_out", "time_embedding"),
    }[which]


@dataclass(frozen=True)
class Network:
    """e(z, t, c) of a UNet in float64, some of whose tensors may be others."""

    unet: nn.Module

    def __call__(self, w: Mapping[str, Tensor], z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        inputs = {"encoder_hidden_states": c.double()}
        found: Tensor = functional_call(self.unet, dict(w), (z.double(), t), inputs).sample
        return found


def soft_null_space(tokens: Tensor, strength: float) -> Tensor:
    """P = lambda (lambda I + M)^-1, M the second moment of tokens (num, d); (d, d)."""
    c = tokens.double()
    moment = sum(torch.outer(row, row) for row in c) / len(c)
    scale = strength * float(moment.diagonal().mean())
    eye = torch.eye(c.shape[1], dtype=torch.float64)
    found: Tensor = scale * torch.linalg.solve(scale * eye + moment, eye)
    return found


def tensors(
    base: Mapping[str, Tensor], values: Sequence[Tensor], projector: Tensor | None
) -> dict[str, Tensor]:
    """W, or W_0 + D P."""
    named = zip(base, values, strict=True)
    if projector is None:
        return {name: value for name, value in named}
    return {name: base[name] + value @ projector for name, value in named}


def ddim(
    network: Network,
    w: Mapping[str, Tensor],
    z: Tensor,
    c_0: Tensor,
    c_p: Tensor,
    u: int,
    params: Any,
) -> Tensor:
    """z after u of N guided steps (arXiv:2010.02502, eq. 12, eta 0), from z_T."""
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, NUM_TRAIN, dtype=torch.float64) ** 2
    alpha = (1 - beta).cumprod(0)
    stride = NUM_TRAIN // params.num_inference_steps
    z = z.double()
    for index in range(u):
        t = NUM_TRAIN - stride * (index + 1) + 1
        now, then = alpha[t], alpha[max(t - stride, 0)]
        when = torch.full((len(z),), t)
        e_0, e_p = network(w, z, when, c_0), network(w, z, when, c_p)
        e = e_0 + params.guidance_scale * (e_p - e_0)
        clean = (z - (1 - now).sqrt() * e) / now.sqrt()
        z = then.sqrt() * clean + (1 - then).sqrt() * e
    return z


def bin_of(u: int, num_inference_steps: int) -> range:
    """The training timesteps that step u of N spans."""
    stride = NUM_TRAIN // num_inference_steps
    return range(NUM_TRAIN - stride * (u + 1), NUM_TRAIN - stride * u)


def gradient(
    network: Network,
    base: Mapping[str, Tensor],
    values: Sequence[Tensor],
    projector: Tensor | None,
    z: Tensor,
    t: Tensor,
    texts: tuple[Tensor, Tensor, int],
    params: DistilParams,
) -> tuple[float, list[Tensor]]:
    """The loss, and its gradient with respect to the trained values.

    ``texts``: c_0 (1, l, d), c_s (b, l, d), and how many rows of it are erased, not kept.
    """
    c_0, c_s, n = texts
    leaves = [value.detach().double().requires_grad_() for value in values]
    w = tensors(base, leaves, projector)
    rows = slice(0, n), slice(n, len(c_s))
    null = c_0.expand(n, -1, -1)
    with torch.no_grad():
        if params.target == "student":
            target = network(w, z[rows[0]], t[rows[0]], null)
        else:
            e_0 = network(base, z[rows[0]], t[rows[0]], null)
            e_c = network(base, z[rows[0]], t[rows[0]], c_s[rows[0]])
            target = e_0 - params.eta * (e_c - e_0)
    loss = (network(w, z[rows[0]], t[rows[0]], c_s[rows[0]]) - target).square().mean()
    if n < len(c_s):
        kept = (z[rows[1]], t[rows[1]], c_s[rows[1]])
        with torch.no_grad():
            answer = network(base, *kept)
        loss = loss + params.keep_weight * (network(w, *kept) - answer).square().mean()
    return float(loss.detach()), list(torch.autograd.grad(loss, leaves))


@dataclass
class Optimizer:
    """Clipping, AdamW and the average of the student: everything that a step does after loss."""

    params: DistilParams
    values: list[Tensor]
    teacher: list[Tensor]
    coupled: bool = False
    """Planted: decay as part of the gradient (Adam with L2)."""
    clip: bool = True
    step: int = 0

    def __post_init__(self) -> None:
        self.m = [torch.zeros_like(v) for v in self.values]
        self.v = [torch.zeros_like(v) for v in self.values]

    def rate(self) -> float:
        """The learning rate of this step."""
        if self.params.rate_schedule == "constant":
            return self.params.learning_rate
        share = self.step / self.params.num_steps
        return self.params.learning_rate * (1 + math.cos(math.pi * share)) / 2

    def take(self, gradients: Sequence[Tensor]) -> None:
        """One step."""
        p, rate = self.params, self.rate()
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        shrink = min(1.0, p.max_grad_norm / (norm + 1e-6)) if self.clip else 1.0
        self.step += 1
        for index, raw in enumerate(gradients):
            g, w = raw * shrink, self.values[index]
            if self.coupled:
                g = g + p.weight_decay * w
            self.m[index] = p.beta1 * self.m[index] + (1 - p.beta1) * g
            self.v[index] = p.beta2 * self.v[index] + (1 - p.beta2) * g.square()
            m_hat = self.m[index] / (1 - p.beta1**self.step)
            v_hat = self.v[index] / (1 - p.beta2**self.step)
            decayed = w if self.coupled else w * (1 - rate * p.weight_decay)
            self.values[index] = decayed - rate * m_hat / (v_hat.sqrt() + p.epsilon)
        decay = p.ema_decay
        if p.ema_warmup:
            decay = min(decay, self.step / (9 + self.step))
        self.teacher = [
            decay * mean + (1 - decay) * w
            for mean, w in zip(self.teacher, self.values, strict=True)
        ]
