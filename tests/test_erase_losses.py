"""The objectives of SDD and ESD against their formulas, written out in float64."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from erase_examples import SMALL, frozen_backbone
from tiny import tiny_unet
from torch import Tensor, nn

from safediff.erase.losses import distil_losses, null_drift
from safediff.erase.params import DistilParams
from safediff.erase.rollout import State
from safediff.erase.texts import Batch
from safediff.models.backbone import Backbone, Condition

GENERATOR = torch.Generator().manual_seed(5)
Z = torch.randn(3, 4, 8, 8, generator=GENERATOR)
T = torch.tensor([981, 503, 20])
STATE = State(Z, T, 0)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def student(original: Backbone) -> Backbone:
    return original.with_denoiser(tiny_unet(seed=9))


def batch(c_s: Condition, c_t: Condition, num_erase: int) -> Batch:
    return Batch(c_p=c_s, c_s=c_s, c_t=c_t, num_erase=num_erase)


def answer(unet: nn.Module, rows: slice, texts: Tensor) -> Tensor:
    """eps_theta(z, t, c) in float64."""
    found: Tensor = unet(Z[rows].double(), T[rows], encoder_hidden_states=texts.double()).sample
    return found


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).pow(2).sum() / a.numel()


def reference(
    student: nn.Module,
    original: nn.Module,
    c_0: Tensor,
    c_s: Tensor,
    c_t: Tensor,
    params: DistilParams,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients in float64; targets come from copies, so no gradient can reach them."""
    theta, target_of = copy.deepcopy(student).double(), copy.deepcopy(student).double()
    orig = copy.deepcopy(original).double()
    num_erase = len(c_t)
    erase, keep = slice(0, num_erase), slice(num_erase, 3)
    null = c_0.expand(num_erase, -1, -1)
    target = answer(target_of if params.target == "student" else orig, erase, c_t).detach()
    target = target - params.eta * (answer(orig, erase, c_s[erase]).detach() - target)
    loss = mean_square(target, answer(theta, erase, c_s[erase]))
    if num_erase < 3:
        kept = answer(orig, keep, c_s[keep])
        loss = loss + params.keep_weight * mean_square(kept, answer(theta, keep, c_s[keep]))
    if params.anchor_weight:
        anchor = mean_square(answer(theta, erase, null), answer(orig, erase, null))
        loss = loss + params.anchor_weight * anchor
    loss.backward()
    gradients = {n: p.grad for n, p in theta.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def squared_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return float(sum((a[name].double() - b[name]).square().sum() for name in b))


@pytest.mark.parametrize(
    ("target", "eta"), [("student", 0.0), *(("frozen", eta) for eta in (0.0, 1.0, 3.0, 20.0))]
)
@pytest.mark.parametrize("anchor_weight", [0.0, 0.7])
@pytest.mark.parametrize("num_erase", [3, 2])
def test_loss_and_gradient_follow_the_formula(
    original: Backbone,
    student: Backbone,
    target: str,
    eta: float,
    anchor_weight: float,
    num_erase: int,
) -> None:
    params = replace(SMALL, target=target, eta=eta, anchor_weight=anchor_weight, keep_weight=0.3)
    c_0, c_s = original.encode([""]), original.encode(["axe", "bomb", "hammer"])
    c_t = original.encode(["", "rose", ""]).rows(slice(0, num_erase))
    losses = distil_losses(student, original, STATE, c_0, batch(c_s, c_t, num_erase), params)
    losses.total.backward()
    texts = (c_0.hidden, c_s.hidden, c_t.hidden)
    expected, gradients = reference(student.denoiser, original.denoiser, *texts, params)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-4)
    found = {n: p.grad for n, p in student.denoiser.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    scale = sum(float(g.square().sum()) for g in gradients.values())
    assert squared_distance(found, gradients) < 1e-6 * scale
    other = (
        replace(params, eta=eta + 19.0)
        if eta
        else replace(params, target="frozen" if target == "student" else "student")
    )
    _, wrong = reference(student.denoiser, original.denoiser, *texts, other)
    assert squared_distance(found, wrong) > 1e-3 * scale
    null = c_0.hidden.expand(num_erase, -1, -1)
    _, wrong = reference(student.denoiser, original.denoiser, c_0.hidden, c_s.hidden, null, params)
    assert squared_distance(found, wrong) > 1e-4 * scale


def test_terms_add_up_to_the_total(original: Backbone, student: Backbone) -> None:
    params = replace(SMALL, anchor_weight=2.0, keep_weight=0.5)
    c_0, c_s = original.encode([""]), original.encode(["axe", "bomb", "hammer"])
    found = distil_losses(student, original, STATE, c_0, batch(c_s, c_0.repeat(2), 2), params)
    assert min(found.erase, found.keep, found.anchor) > 0
    expected = found.erase + 0.5 * found.keep + 2.0 * found.anchor
    torch.testing.assert_close(found.total.detach(), expected)


class SplitUNet(nn.Module):
    """Answers the empty prompt (all zeros here) and texts with a parameter each."""

    def __init__(self, null: float, text: float) -> None:
        super().__init__()
        self.null, self.text = nn.Parameter(torch.tensor(null)), nn.Parameter(torch.tensor(text))
        self.config = SimpleNamespace()

    def forward(
        self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool
    ) -> tuple[Tensor]:
        empty = (encoder_hidden_states == 0).flatten(1).all(1)[:, None, None, None]
        return (torch.where(empty, self.null, self.text) * z,)


@pytest.mark.parametrize("target", ["student", "frozen"])
def test_no_gradient_reaches_the_target(original: Backbone, target: str) -> None:
    c_0, c_s = Condition(torch.zeros(1, 2, 4)), Condition(torch.ones(3, 2, 4))
    unet, frozen = SplitUNet(0.5, 2.0), SplitUNet(0.25, 1.0)
    student, first = original.with_denoiser(unet), original.with_denoiser(frozen)
    params = replace(SMALL, target=target)
    texts = batch(c_s, c_0.repeat(2), 2)
    distil_losses(student, first, STATE, c_0, texts, params).total.backward()
    assert unet.text.grad is not None
    assert unet.text.grad.item() != 0
    assert unet.null.grad is None or unet.null.grad.item() == 0
    assert frozen.null.grad is None
    assert frozen.text.grad is None
    # the same probe sees the gradient where there is one: the anchor pulls on the empty prompt
    anchored = replace(params, anchor_weight=1.0)
    distil_losses(student, first, STATE, c_0, texts, anchored).total.backward()
    assert unet.null.grad is not None
    assert unet.null.grad.item() != 0
    assert frozen.null.grad is None


def test_null_drift_is_relative(original: Backbone) -> None:
    c_0 = Condition(torch.zeros(1, 2, 4))
    first = original.with_denoiser(SplitUNet(0.5, 1.0))
    assert null_drift(first, first, STATE, c_0) == 0
    moved = original.with_denoiser(SplitUNet(0.6, 1.0))
    assert null_drift(moved, first, STATE, c_0) == pytest.approx(0.2, rel=1e-5)
