"""Precision, recomputation and layout of the trunk against two plain copies of the UNet."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from erase_examples import CONCEPTS, KEEP, SMALL, frozen_backbone, small_trainer
from tiny import tiny_v_pipeline, tiny_xl_pipeline
from torch import Tensor, nn
from torch.func import functional_call
from transformer_examples import FAMILIES, example

from safediff.erase import micro_batch
from safediff.erase import trunk as trunk_module
from safediff.erase.losses import Losses
from safediff.erase.micro_batch import backward, loss_scale, parts
from safediff.erase.params import DistilParams
from safediff.erase.rollout import State
from safediff.erase.texts import Batch, TextBank
from safediff.erase.trainer import Erased
from safediff.erase.trunk import check_compiled, trunk
from safediff.erase.weights import PatchedUNet, Student, trainable_names
from safediff.errors import Inconclusive, UsageError
from safediff.models.backbone import Backbone, Condition
from safediff.models.load import as_backbone
from safediff.models.patch import unet_sha256

PARAMS = replace(
    SMALL,
    batch_size=5,
    keep_share=0.4,
    keep_weight=0.7,
    target="frozen",
    eta=0.5,
    anchor_weight=0.3,
)
SAME = [
    {},
    {"gradient_checkpointing": True},
    {"channels_last": True},
    {"offload": False},
    {"micro_batch": 1},
    {"micro_batch": 2},
    {"gradient_checkpointing": True, "channels_last": True, "offload": False, "micro_batch": 2},
]
"""Knobs that do not change what is computed."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    backbone = frozen_backbone(tmp_path_factory.mktemp("tiny"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # a student that has gone some way is elsewhere than the original
        for name, value in backbone.denoiser.named_parameters():
            if ".attn2." in name:
                value += 0.2 * torch.randn(value.shape, generator=generator)
    return backbone


def drawn(backbone: Backbone, params: DistilParams) -> tuple[TextBank, Batch, State]:
    texts = TextBank(backbone, CONCEPTS, KEEP, params.guidance_scale)
    generator = torch.Generator().manual_seed(1)
    batch = texts.draw(0, params, generator)
    z = torch.randn(params.batch_size, *backbone.latent_shape, generator=generator)
    t = torch.randint(1000, (params.batch_size,), generator=generator)
    return texts, batch, State(z, t, 3)


def student_of(backbone: Backbone, params: DistilParams) -> Student:
    """Moved off its start, by the same values every time."""
    student = Student(backbone.denoiser, trainable_names(backbone.denoiser, params.trainable))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in student.values:
            value += 0.1 * torch.randn(value.shape, generator=generator)
    return student


def gradients(backbone: Backbone, params: DistilParams) -> tuple[Losses, dict[str, Tensor]]:
    """What training computes."""
    texts, batch, state = drawn(backbone, params)
    student = student_of(backbone, params)
    with trunk(backbone, params) as seen:
        losses = backward(seen, student, state, texts.null, batch, params, Tensor.backward)
    found = {n: v.grad for n, v in zip(student.names, student.values, strict=True)}
    return losses, {name: g for name, g in found.items() if g is not None}


def plain_gradients(backbone: Backbone, params: DistilParams) -> tuple[float, dict[str, Tensor]]:
    """The same by two whole copies of the UNet and the formula, row by row."""
    texts, batch, state = drawn(backbone, params)
    n, student = batch.num_erase, student_of(backbone, params)
    original, mine = copy.deepcopy(backbone.denoiser), copy.deepcopy(backbone.denoiser)
    own = dict(mine.named_parameters())
    with torch.no_grad():
        for name, value in student.weights().items():
            own[name].copy_(value)
            own[name].requires_grad_(True)

    def e(unet: Any, row: int, c: Condition) -> Tensor:
        z, t = state.z[row : row + 1], state.t[row : row + 1]
        return backbone.with_denoiser(unet).denoise(z, t, c)

    erase: Any = 0.0
    keep: Any = 0.0
    anchor: Any = 0.0
    c_0 = texts.null
    for row in range(len(state.z)):
        c_s = batch.c_s.rows(slice(row, row + 1))
        with torch.no_grad():
            e_0, e_s = e(original, row, c_0), e(original, row, c_s)
        answer = e(mine, row, c_s)
        if row < n:
            target = e_0 - params.eta * (e_s - e_0)
            erase = erase + (answer - target).pow(2).mean() / n
            anchor = anchor + (e(mine, row, c_0) - e_0).pow(2).mean() / n
        else:
            keep = keep + (answer - e_s).pow(2).mean() / (len(state.z) - n)
    loss = erase + params.keep_weight * keep + params.anchor_weight * anchor
    loss.backward()
    return float(loss.detach()), {name: own[name].grad for name in student.names}  # type: ignore[misc]


Reference = Callable[[DistilParams], tuple[float, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def reference(backbone: Backbone) -> Reference:
    """``plain_gradients`` of ``backbone``, computed once for each formula."""
    return functools.cache(partial(plain_gradients, backbone))


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative, over all tensors."""
    assert a.keys() == b.keys()
    apart = sum(float((a[name] - b[name]).pow(2).sum()) for name in b)
    return float((apart / sum(float(b[name].pow(2).sum()) for name in b)) ** 0.5)


@pytest.mark.parametrize("trainable", ["kv", "xattn", "noxattn", "full"])
@pytest.mark.parametrize("knobs", SAME, ids=lambda knobs: "+".join(knobs) or "none")
def test_gradients_are_those_of_two_copies(
    backbone: Backbone, reference: Reference, knobs: dict[str, Any], trainable: Any
) -> None:
    params = replace(PARAMS, trainable=trainable)
    losses, found = gradients(backbone, replace(params, **knobs))
    loss, expected = reference(params)
    assert losses.total.item() == pytest.approx(loss, rel=1e-5)
    assert difference(found, expected) < 1e-5
    assert losses.total.item() == pytest.approx(
        float(losses.erase + params.keep_weight * losses.keep + 0.3 * losses.anchor), rel=1e-5
    )


FORMS: dict[str, Callable[[Path], Any]] = {
    "sd-v": tiny_v_pipeline,
    "sdxl": tiny_xl_pipeline,
    **{name: partial(example, name) for name in FAMILIES},
}


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_every_family_are_those_of_two_copies(form: str, tmp_path: Path) -> None:
    made = FORMS[form](tmp_path)
    other = made.backbone if form in FAMILIES else as_backbone(form, made)
    for part in other.components().values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    loss, expected = plain_gradients(other, PARAMS)
    for knobs in ({}, {"gradient_checkpointing": True, "micro_batch": 2}):
        losses, found = gradients(other, replace(PARAMS, **knobs))
        assert losses.total.item() == pytest.approx(loss, rel=1e-5)
        assert difference(found, expected) < 1e-5
    # a push of a fiftieth more would have been seen
    wrong = plain_gradients(other, replace(PARAMS, eta=0.51))[1]
    assert difference(wrong, expected) > 1e-4


def test_sdds_own_target_goes_part_by_part_as_well(backbone: Backbone) -> None:
    params = replace(PARAMS, target="student", eta=0.0)
    whole = gradients(backbone, params)[1]
    assert difference(gradients(backbone, replace(params, micro_batch=2))[1], whole) < 1e-5
    assert difference(whole, gradients(backbone, PARAMS)[1]) > 1e-2


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 0.05), ("float16", 0.01)])
@pytest.mark.parametrize("knobs", [{}, SAME[-1]], ids=["plain", "all"])
def test_half_trunk_gives_nearly_the_gradients(
    backbone: Backbone, reference: Reference, dtype: Any, limit: float, knobs: dict[str, Any]
) -> None:
    losses, found = gradients(backbone, replace(PARAMS, trunk_dtype=dtype, **knobs))
    loss, expected = reference(PARAMS)
    assert all(g.dtype == torch.float32 for g in found.values())
    assert losses.total.item() == pytest.approx(loss, rel=limit)
    assert 1e-6 < difference(found, expected) < limit


def test_model_in_half_precision_trains_float32_tensors(tmp_path: Path) -> None:
    half = frozen_backbone(tmp_path)
    for part in (half.denoiser, half.text_encoder, half.vae):
        for value in part.parameters():
            value.data = value.data.to(torch.bfloat16)
    trainer = small_trainer(half)
    erased = trainer.run(lambda info: None)
    assert {v.dtype for v in (*trainer.student.values, *trainer.teacher)} == {torch.float32}
    assert {w.dtype for w in erased.teacher.tensors.values()} == {torch.bfloat16}
    before = half.denoiser.state_dict()
    assert any(not torch.equal(w, before[n]) for n, w in erased.teacher.tensors.items())


def test_float16_gradients_would_underflow_unscaled(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(PARAMS, trunk_dtype="float16", eta=0.0, keep_weight=0.0, anchor_weight=0.0)
    assert loss_scale(torch.float32, 16384) == loss_scale(torch.bfloat16, 16384) == 1
    assert loss_scale(torch.float16, 16384) == 8192
    expected = gradients(backbone, replace(params, trunk_dtype="model"))[1]
    scaled = difference(gradients(backbone, params)[1], expected)
    monkeypatch.setattr(micro_batch, "loss_scale", lambda dtype, num_values: 2.0**-10)
    assert difference(gradients(backbone, params)[1], expected) > 2 * scaled


def test_plain_checkpointing_would_lose_the_students_tensors(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers' default calls the block again when the replaced tensors have left it."""

    def plain(block: nn.Module, *args: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(block.__call__, *args, use_reentrant=False)

    monkeypatch.setattr(trunk_module, "_again", plain)
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        gradients(backbone, replace(PARAMS, gradient_checkpointing=True))


def test_checkpointing_keeps_fewer_activations(backbone: Backbone) -> None:
    assert kept_bytes(backbone, True) < 0.7 * kept_bytes(backbone, False)


def kept_bytes(backbone: Backbone, checkpointing: bool) -> int:
    """Bytes that one forward pass keeps for its backward pass, weights not counted."""
    student = student_of(backbone, PARAMS)
    weights = {w.untyped_storage().data_ptr() for w in backbone.denoiser.parameters()}
    weights |= {w.untyped_storage().data_ptr() for w in student.values}
    kept: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        kept.setdefault(value.untyped_storage().data_ptr(), value)
        return value

    _, batch, state = drawn(backbone, PARAMS)
    params = replace(PARAMS, gradient_checkpointing=checkpointing)
    with trunk(backbone, params) as seen:
        replaced = seen.with_denoiser(seen.denoiser.replaced(student.weights()))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            replaced.denoise(state.z, state.t, batch.c_s)
    return sum(v.untyped_storage().nbytes() for p, v in kept.items() if p not in weights)


def test_parts_are_the_batch(backbone: Backbone) -> None:
    _, batch, state = drawn(backbone, PARAMS)
    found = list(parts(state, batch, 2))
    assert [part.batch.num_erase for part in found] == [2, 1, 0]
    assert [part.shares for part in found] == [
        pytest.approx(x) for x in ((2 / 3, 0), (1 / 3, 1 / 2), (0, 1 / 2))
    ]
    assert torch.equal(torch.cat([part.state.z for part in found]), state.z)
    assert torch.equal(torch.cat([part.batch.c_s.hidden for part in found]), batch.c_s.hidden)
    assert torch.equal(torch.cat([part.batch.c_t.hidden for part in found]), batch.c_t.hidden)
    assert len(list(parts(state, batch, 0))) == 1


def test_no_call_is_larger_than_the_micro_batch(backbone: Backbone) -> None:
    sizes: list[int] = []
    hook = backbone.denoiser.conv_in.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    params = replace(PARAMS, micro_batch=2, num_steps=1)
    small_trainer(backbone, params).run(lambda info: None)
    assert max(sizes) == 2
    sizes.clear()
    small_trainer(backbone, replace(params, micro_batch=0)).run(lambda info: None)
    hook.remove()
    assert max(sizes) >= 2 * PARAMS.batch_size


WHOLE = replace(PARAMS, num_steps=3, reuse=2, epsilon=1e-3)


@pytest.fixture(scope="module")
def plain(backbone: Backbone) -> Erased:
    return small_trainer(backbone, WHOLE).run(lambda info: None)


@pytest.mark.parametrize("knobs", SAME[1:], ids="+".join)
def test_a_whole_run_ends_the_same(
    backbone: Backbone, plain: Erased, knobs: dict[str, Any]
) -> None:
    found = small_trainer(backbone, replace(WHOLE, **knobs)).run(lambda info: None)
    moved = {n: w - backbone.denoiser.state_dict()[n] for n, w in plain.teacher.tensors.items()}
    again = {n: w - backbone.denoiser.state_dict()[n] for n, w in found.teacher.tensors.items()}
    assert difference(again, moved) < 1e-3  # the steps are near the rounding of the weights
    assert found.num_passes == plain.num_passes


def test_the_model_is_left_as_it_was(backbone: Backbone) -> None:
    unet, before = backbone.denoiser, unet_sha256(backbone.denoiser)
    strides = [value.stride() for value in unet.parameters()]
    with trunk(backbone, replace(PARAMS, **SAME[-1])) as seen:
        assert seen.denoiser.unet is unet  # nothing is copied
        assert unet.is_gradient_checkpointing
        assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    with trunk(backbone, replace(PARAMS, trunk_dtype="bfloat16")) as seen:
        assert seen.denoiser.unet is not unet
        assert {value.dtype for value in seen.denoiser.unet.parameters()} == {torch.bfloat16}
        assert not any(value.requires_grad for value in seen.denoiser.unet.parameters())
    assert unet_sha256(unet) == before
    assert not unet.is_gradient_checkpointing
    assert [value.stride() for value in unet.parameters()] == strides
    assert not unet.training


def test_attention_is_pytorchs_own(backbone: Backbone) -> None:
    processors = backbone.denoiser.attn_processors.values()
    assert {type(processor) for processor in processors} == {AttnProcessor2_0}


class Travelling(nn.Module):
    """Remembers where it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[str] = []

    def to(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(str(args[0]))
        return self


def test_offloaded_parts_come_back(backbone: Backbone) -> None:
    text_encoder, vae = Travelling(), Travelling()
    text_encoder.weight = nn.Parameter(torch.zeros(1, device="meta"))
    moving: Any = replace(backbone, text_encoder=text_encoder, vae=vae)  # type: ignore[arg-type]
    with trunk(moving, PARAMS):
        assert (text_encoder.seen, vae.seen) == (["cpu"], ["cpu"])
    assert (text_encoder.seen, vae.seen) == (["cpu", "meta"], ["cpu", "cpu"])
    with trunk(moving, replace(PARAMS, offload=False)):
        assert len(text_encoder.seen) == 2


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("form", ["sdxl", "sd3"])
def test_whatever_is_not_trained_waits_elsewhere(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All text encoders of a family and its VAE, without being asked to."""
    made = FORMS[form](tmp_path)
    other = made.backbone if form in FAMILIES else as_backbone(form, made)
    modules = [part for part in other.components().values() if isinstance(part, nn.Module)]
    sent: list[tuple[nn.Module, str]] = []

    def to(self: nn.Module, place: Any) -> nn.Module:
        sent.append((self, str(place)))
        return self

    monkeypatch.setattr(nn.Module, "to", to)
    with trunk(other, DistilParams()):
        assert {id(part) for part, _ in sent} == {
            id(part) for part in modules if part is not other.denoiser
        }
        assert len(sent) == {"sdxl": 3, "sd3": 4}[form]
    assert len(sent) == 2 * len({id(part) for part, _ in sent})


def test_denoiser_without_checkpointing_is_refused(backbone: Backbone) -> None:
    other = backbone.with_denoiser(nn.Linear(1, 1))
    with (
        pytest.raises(UsageError, match=r"gradient_checkpointing: Linear has no support"),
        trunk(other, replace(PARAMS, gradient_checkpointing=True)),
    ):
        pass


@contextmanager
def compiled_by(
    monkeypatch: pytest.MonkeyPatch, backbone: Backbone, compiler: Any
) -> Iterator[tuple[Backbone, Student]]:
    monkeypatch.setattr(torch, "compile", compiler)
    with trunk(backbone, replace(PARAMS, compile=True)) as seen:
        yield seen, student_of(backbone, PARAMS)


def detached(function: Any) -> Any:
    """The right answer with the gradient of one row lost."""

    def wrong(*args: Any) -> Any:
        (out,) = function(*args)
        return (torch.cat([out[:1].detach(), out[1:]]),)

    return wrong


def shifted(function: Any) -> Any:
    return lambda *args: (1.01 * function(*args)[0],)


def failing(function: Any) -> Any:
    def wrong(*args: Any) -> Any:
        raise RuntimeError("no compiler\nhere")

    return wrong


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        (detached, "compiled gradient differs"),
        (shifted, "compiled answer differs"),
        (failing, "RuntimeError: no compiler$"),
    ],
)
def test_wrong_compilers_are_seen(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, compiler: Any, message: str
) -> None:
    texts = backbone.encode(["axe"])
    with (
        compiled_by(monkeypatch, backbone, compiler) as (seen, student),
        pytest.raises(Inconclusive, match=message),
    ):
        check_compiled(seen, student, texts)
    with pytest.raises(Inconclusive, match=message):  # and the trainer looks
        small_trainer(backbone, replace(PARAMS, compile=True)).run(lambda info: None)


def test_a_lack_of_memory_is_not_the_compilers(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(function: Any, **_: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return call

    texts = backbone.encode(["axe"])
    with (
        compiled_by(monkeypatch, backbone, lacking) as (seen, student),
        pytest.raises(torch.OutOfMemoryError),
    ):
        check_compiled(seen, student, texts)


def test_right_compiler_is_used(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = functools.partial(torch.compile, backend="eager")
    with compiled_by(monkeypatch, backbone, compiler) as (seen, student):
        check_compiled(seen, student, backbone.encode(["axe"]))
        assert isinstance(seen.denoiser, PatchedUNet)
        assert seen.denoiser.call is not functional_call
