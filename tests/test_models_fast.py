"""A UNet that draws faster draws the same, and is itself again afterwards."""

import threading
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from tiny import tiny_backbone, tiny_unet
from torch import Tensor

from safediff.guard import base as guard_base
from safediff.guard.base import Guard
from safediff.guard.load import make_guard
from safediff.models import fast
from safediff.models.backbone import Backbone
from safediff.models.fast import TEXT_PROJECTIONS, faster, products_by_onednn
from safediff.sample.sampler import Draw, Sampling, denoise_all

DRAWS = [Draw("axe"), Draw("a hammer"), Draw("bomb")]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two, and rows few enough for both."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(fast, "MIN_ROWS", 2)
    yield
    torch.set_num_threads(before)


def count_projections(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thread, whenever a layer projects a text."""
    calls: list[int] = []
    for name, layer in backbone.denoiser.named_modules():
        if name.endswith(TEXT_PROJECTIONS):
            compute = type(layer).forward

            def forward(self: torch.nn.Module, x: Tensor, compute=compute) -> Tensor:  # type: ignore[no-untyped-def]
                calls.append(threading.get_ident())
                return compute(self, x)

            monkeypatch.setattr(
                layer, "__class__", type("Counted", (type(layer),), {"forward": forward})
            )
    return calls


def draw(backbone: Backbone, guard: Guard | None = None) -> Tensor:
    c_0, c = backbone.encode([""]).repeat(3), backbone.encode([d.prompt for d in DRAWS])
    return denoise_all(backbone, DRAWS, c_0, c, Sampling(num_steps=4, seed=3), guard)


@torch.no_grad()
def test_texts_are_projected_once_per_trajectory_and_to_the_same_bits(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "rows_apart", nullcontext)
    calls = count_projections(backbone, monkeypatch)
    num_layers = sum(n.endswith(TEXT_PROJECTIONS) for n, _ in backbone.denoiser.named_modules())
    assert num_layers > 0
    once = draw(backbone)
    assert len(calls) == num_layers
    with monkeypatch.context() as patch:
        patch.setattr(fast, "texts_once", nullcontext)
        every_step = draw(backbone)
    assert len(calls) == num_layers * 5
    assert torch.equal(once, every_step)


@torch.no_grad()
@pytest.mark.usefixtures("two_threads")
def test_rows_apart_give_what_rows_together_give(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_projections(backbone, monkeypatch)
    apart = draw(backbone)
    num_layers = sum(n.endswith(TEXT_PROJECTIONS) for n, _ in backbone.denoiser.named_modules())
    assert len(calls) == 2 * num_layers  # once in each thread
    assert threading.get_ident() not in calls
    monkeypatch.setattr(fast, "rows_apart", nullcontext)
    monkeypatch.setattr(fast, "products_by_onednn", nullcontext)
    monkeypatch.setattr(fast, "texts_once", nullcontext)
    torch.testing.assert_close(apart, draw(backbone), rtol=0, atol=1e-4)  # guidance 5, four steps


@torch.no_grad()
@pytest.mark.usefixtures("two_threads")
def test_texts_of_several_calls_a_step_are_all_remembered(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_base, "MOST_ROWS", 6)
    calls = count_projections(backbone, monkeypatch)
    draw(backbone, make_guard("sega", ["sword", "cannon"]))
    num_layers = sum(n.endswith(TEXT_PROJECTIONS) for n, _ in backbone.denoiser.named_modules())
    assert len(calls) == 2 * 2 * num_layers  # two calls a step, each in two threads


@torch.no_grad()
@pytest.mark.usefixtures("two_threads")
def test_every_row_keeps_its_own_time_and_added_conditions() -> None:
    unet = tiny_unet(xl=True)
    z, t, text = torch.randn(5, 4, 8, 8), torch.tensor([900, 7, 500, 3, 40]), torch.randn(5, 77, 32)
    added = {"text_embeds": torch.randn(5, 16), "time_ids": torch.randn(5, 6)}
    given = {"encoder_hidden_states": text, "added_cond_kwargs": added, "return_dict": False}
    expected = unet(z, t, **given)[0]
    with faster(unet) as quick:
        assert quick is not unet
        torch.testing.assert_close(quick(z, t, **given)[0], expected, rtol=0, atol=1e-5)
        few = {**given, "encoder_hidden_states": text[:3]}
        few["added_cond_kwargs"] = {name: value[:3] for name, value in added.items()}
        torch.testing.assert_close(quick(z[:3], t[:3], **few)[0], expected[:3], rtol=0, atol=1e-5)


@torch.no_grad()
def test_another_text_is_projected_anew_and_nothing_stays_behind() -> None:
    unet = tiny_unet()
    z, t = torch.randn(2, 4, 8, 8), torch.tensor(500)
    first, second = torch.randn(2, 77, 16), torch.randn(2, 77, 16)

    def answers(unet: torch.nn.Module) -> Tensor:
        texts = (first, second, first)
        return torch.stack([unet(z, t, encoder_hidden_states=text)[0] for text in texts])

    expected = answers(unet)
    with faster(unet) as quick:
        torch.testing.assert_close(answers(quick), expected, rtol=0, atol=1e-5)
        with faster(unet) as again:  # within another
            torch.testing.assert_close(answers(again), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(answers(quick), expected, rtol=0, atol=1e-5)
    assert not [name for name, layer in unet.named_modules() if "forward" in vars(layer)]
    for name, parameter in unet.named_parameters():
        if "attn2.to_v" in name:
            parameter += 1.0
    with faster(unet) as quick:
        assert not torch.allclose(answers(quick), expected, atol=1e-3)  # changed weights count


def test_where_gradients_are_wanted_nothing_changes() -> None:
    unet = tiny_unet()
    with faster(unet) as same:
        assert same is unet
        assert not [name for name, layer in unet.named_modules() if "forward" in vars(layer)]
    engine = object()
    with torch.no_grad(), faster(engine) as same:
        assert same is engine


@torch.no_grad()
def test_products_go_through_onednn_where_the_build_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = tiny_unet()
    linears = [layer for layer in unet.modules() if type(layer) is torch.nn.Linear]
    assert linears
    with faster(unet):
        assert all("forward" in vars(layer) for layer in linears)
    monkeypatch.setattr(fast, "ONEDNN_LINEAR", "no_such_operator")
    z, t, text = torch.randn(2, 4, 8, 8), torch.tensor(500), torch.randn(2, 77, 16)
    with faster(unet) as quick:
        own = [layer for layer in linears if "forward" not in vars(layer)]
        assert own  # all but those of the texts
        found = quick(z, t, encoder_hidden_states=text, return_dict=False)[0]
    assert torch.equal(found, unet(z, t, text, return_dict=False)[0])


@torch.no_grad()
def test_a_compiled_network_is_left_alone() -> None:
    unet = tiny_unet()
    unet.mid_block._compiled_call_impl = unet.mid_block._call_impl  # what torch.compile leaves
    with faster(unet) as same:
        assert same is unet
        assert not [name for name, layer in unet.named_modules() if "forward" in vars(layer)]


@torch.no_grad()
def test_threads_take_turns_with_one_unet(backbone: Backbone) -> None:
    expected, found = draw(backbone), []
    crowd = [threading.Thread(target=lambda: found.append(draw(backbone))) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert len(found) == 4
    for latents in found:
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    assert not [
        name for name, layer in backbone.denoiser.named_modules() if "forward" in vars(layer)
    ]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("trained", ["x", "weight", "all"])
def test_gradients_through_onednn_are_those_of_a_linear_layer(
    with_bias: bool, trained: str
) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 5, bias=with_bias).requires_grad_(trained != "x")
    x = torch.randn(3, 7, 6).requires_grad_(trained != "weight")
    wanted = [value for value in (x, *layer.parameters()) if value.requires_grad]
    weights = torch.randn(3, 7, 5)
    expected = torch.autograd.grad((layer(x) * weights).sum(), wanted)
    with products_by_onednn(layer):
        assert "forward" in vars(layer)
        out = layer(x)
    assert "Product" in out.grad_fn.name()
    for found, right in zip(
        torch.autograd.grad((out * weights).sum(), wanted), expected, strict=True
    ):
        assert found.shape == right.shape
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_only_what_a_gradient_reads_is_kept_for_it() -> None:
    layer, x = torch.nn.Linear(6, 5), torch.randn(3, 6)
    with products_by_onednn(layer):
        frozen = layer.requires_grad_(False)(x.requires_grad_(True))
        trained = layer.requires_grad_(True)(x.detach())
    kept_x, kept_weight = frozen.grad_fn.saved_tensors
    assert kept_x is None
    assert kept_weight.shape == (5, 6)
    kept_x, kept_weight = trained.grad_fn.saved_tensors
    assert kept_weight is None
    assert kept_x.shape == (3, 6)
