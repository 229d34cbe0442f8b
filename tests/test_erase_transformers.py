"""Erasing from PixArt, Stable Diffusion 3 and FLUX.1: what is trained, by which loss, on what."""

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from erase_examples import CONCEPTS, KEEP, SMALL, concept, small_trainer
from torch import Tensor, nn
from transformer_examples import FAMILIES, Example, example, shared_example

from safediff.erase.closed_form.kv import kv_weights, token_mask
from safediff.erase.closed_form.params import (
    RECE_PRESETS,
    SPEED_PRESETS,
    UCE_PRESETS,
)
from safediff.erase.closed_form.solve import solve
from safediff.erase.losses import distil_losses
from safediff.erase.params import PRESETS
from safediff.erase.rollout import State, draw_steps, rollout
from safediff.erase.texts import Batch
from safediff.erase.weights import PatchedUNet, trainable_names
from safediff.errors import UsageError
from safediff.models.adapter import save_adapter
from safediff.models.backbone import Backbone, Condition
from safediff.models.patch import apply_patch, load_patch, save_patch, unet_sha256
from safediff.workflow.safe_model import patched

# diffusers' DPM solver computes with NumPy on tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
SCALE = 2.5


def names_of(variant: str, which: Any) -> set[str]:
    return {*trainable_names(shared_example(variant).backbone.denoiser, which)}


def test_cross_attention_of_pixart_is_attn2() -> None:
    text = names_of("pixart-alpha", "xattn")
    assert len(text) == 2 * 8  # two layers, four projections, weight and bias
    assert all(".attn2." in name for name in text)
    kv = names_of("pixart-alpha", "kv")
    assert {name.split(".")[-2] for name in kv} == {"to_k", "to_v"}
    assert len(kv) == 2 * 4
    rest = names_of("pixart-alpha", "noxattn")
    assert not rest & text
    assert not any(name.startswith(("proj_out.", "adaln_single.")) for name in rest)
    assert {name for name in rest if ".attn1." in name} == names_of("pixart-alpha", "selfattn")


@pytest.mark.parametrize("variant", ["sd3", "sd3.5", "flux dev"])
def test_the_text_stream_of_joint_attention_is_its_cross_attention(variant: str) -> None:
    denoiser = shared_example(variant).backbone.denoiser
    every = {name for name, _ in denoiser.named_parameters()}
    text = names_of(variant, "xattn")
    parts = {name.split(".attn.")[1].split(".")[0] for name in text}
    expected = {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
    if variant != "sd3":
        expected |= {"norm_added_q", "norm_added_k"}
    assert parts == expected
    kv = names_of(variant, "kv")
    assert kv < text
    assert {name.split(".attn.")[1].split(".")[0] for name in kv} == {"add_k_proj", "add_v_proj"}
    picture = names_of(variant, "selfattn")
    assert not picture & text
    assert picture | text == {name for name in every if ".attn." in name or ".attn2." in name}
    if variant == "sd3.5":
        # attention of the picture to itself, which bears the name of cross-attention elsewhere
        assert any(".attn2.to_k." in name for name in picture)
    if variant == "flux dev":
        assert any(name.startswith("single_transformer_blocks.") for name in picture)
    assert names_of(variant, "full") == every


class Reference:
    """diffusers' own transformer in float64, called as its pipeline calls it."""

    def __init__(self, found: Example, variant: str) -> None:
        self.network = copy.deepcopy(found.pipeline.transformer).double()
        self.pipeline, self.variant = found.pipeline, variant

    def __call__(self, z: Tensor, t: Tensor, c: Condition) -> Tensor:
        z, t, hidden = z.double(), t.double(), c.hidden.double()
        added = {k: v.double() for k, v in (c.added or {}).items()}
        if self.variant.startswith("pixart"):
            out = self.network(
                z,
                encoder_hidden_states=hidden,
                encoder_attention_mask=added["mask"],
                timestep=t,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                return_dict=False,
            )[0]
            return out.chunk(2, dim=1)[0]
        if self.variant == "sd3":
            return self.network(z, hidden, added["pooled"], t, return_dict=False)[0]
        packed = self.pipeline._pack_latents(z, *z.shape)
        height, width = z.shape[-2:]
        ids = self.pipeline._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", z.dtype)
        out = self.network(
            packed,
            hidden,
            added["pooled"],
            t / 1000,
            img_ids=ids,
            txt_ids=torch.zeros(hidden.shape[1], 3).double(),
            guidance=torch.full((len(z),), SCALE).double(),
            return_dict=False,
        )[0]
        return self.pipeline._unpack_latents(out, 2 * height, 2 * width, 2)


@pytest.mark.parametrize(("target", "eta"), [("student", 0.0), ("frozen", 2.0)])
@pytest.mark.parametrize("variant", FAMILIES)
def test_loss_and_gradient_follow_the_formula(
    variant: str, target: Any, eta: float, tmp_path: Path
) -> None:
    found = example(variant, tmp_path)
    original = found.backbone
    params = replace(SMALL, target=target, eta=eta)
    names = trainable_names(original.denoiser, "xattn")
    g = torch.Generator().manual_seed(0)
    start = dict(original.denoiser.named_parameters())
    weights = {
        name: (start[name] + 0.05 * torch.randn(start[name].shape, generator=g)).requires_grad_()
        for name in names
    }
    student = original.with_denoiser(PatchedUNet(original.denoiser, weights))

    def encode(*texts: str) -> Condition:
        return original.at_scale(original.encode(texts), SCALE)

    z = torch.randn(2, *original.latent_shape, generator=g)
    t = torch.tensor([981.0, 20.5]) if variant != "pixart-alpha" else torch.tensor([981, 20])
    c_0, c_s = encode(""), encode("axe", "bomb")
    batch = Batch(c_p=c_s, c_s=c_s, c_t=c_0.repeat(2), num_erase=2)
    losses = distil_losses(student, original, State(z, t, 0), c_0, batch, params)
    losses.total.backward()

    theta, orig = Reference(found, variant), Reference(found, variant)
    own = dict(theta.network.named_parameters())
    for name in names:
        own[name].data.copy_(weights[name].detach())
        own[name].requires_grad_()
    null = encode("", "")
    with torch.no_grad():
        e_0 = (theta if target == "student" else orig)(z, t, null)
        goal = e_0 - eta * (orig(z, t, c_s) - e_0)
    answer = theta(z, t, c_s)
    loss = (goal - answer).square().sum() / answer.numel()
    loss.backward()
    assert losses.total.item() == pytest.approx(loss.item(), rel=1e-3)
    scale = sum(float(own[name].grad.square().sum()) for name in names)
    assert scale > 0
    assert distance(weights, own) < 1e-5 * scale
    # a gradient through the target too, which stop-gradient keeps out, would have been seen
    for name in names:
        own[name].grad = None
    other = theta(z, t, null) if target == "student" else orig(z, t, null)
    ((other - theta(z, t, c_s)).square().sum() / answer.numel()).backward()
    assert distance(weights, own) > 1e-3 * scale


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    pairs = ((found[name].grad, expected[name].grad) for name in found)
    return float(sum((a - b).square().sum() for a, b in pairs if a is not None and b is not None))


@torch.no_grad()
@pytest.mark.usefixtures("same_products")
@pytest.mark.parametrize("variant", ["sd3", "flux dev"])
def test_a_rollout_is_guided_euler(variant: str, tmp_path: Path) -> None:
    backbone = example(variant, tmp_path).backbone
    c_0, c_p = backbone.encode([""]), backbone.encode(["axe"])
    g = torch.Generator().manual_seed(3)
    params = replace(SMALL, guidance_scale=SCALE)
    states = [*rollout(backbone, c_0, c_p, [0, 3], params, g)]
    z = torch.randn(1, *backbone.latent_shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(states[0].z, z)
    # sigma is shifted twice in SD3: diffusers starts from the levels of an already shifted schedule
    if variant == "sd3":
        end = 3 * 0.001 / (1 + 2 * 0.001)
        sigma = torch.linspace(1, end, 8, dtype=torch.float64)
        sigma = 3 * sigma / (1 + 2 * sigma)
    else:
        shift = math.exp(0.5 + (1.15 - 0.5) * (4 * 4 - 256) / (4096 - 256))
        sigma = torch.linspace(1, 1 / 8, 8, dtype=torch.float64)
        sigma = shift / (shift + 1 / sigma - 1)
    for now, then in itertools.pairwise(sigma[:4]):
        t = (1000 * now).float()
        if variant == "sd3":
            v_0, v_p = (backbone.denoise(z, t, c) for c in (c_0, c_p))
            v = v_0 + SCALE * (v_p - v_0)
        else:
            v = backbone.denoise(z, t, backbone.at_scale(c_p, SCALE))
        z = (z.double() + (then - now) * v).float()
    assert (states[1].z - z).abs().max() <= 1e-5 * z.std()
    low, high = 1000 * sigma[4], 1000 * sigma[3]
    assert low <= states[1].t.double().min() + 1e-3
    assert states[1].t.double().max() < high + 1e-3


@torch.no_grad()
@pytest.mark.usefixtures("same_products")
def test_a_rollout_of_pixart_is_guided_ddim_of_equal_steps(tmp_path: Path) -> None:
    """Whatever spacing the model's own solver has: T / N apart, from the last timestep."""
    backbone = example("pixart-alpha", tmp_path).backbone
    assert backbone.scheduler.config.timestep_spacing == "linspace"
    c_0, c_p = backbone.encode([""]), backbone.encode(["axe"])
    params = replace(SMALL, guidance_scale=SCALE)
    states = [*rollout(backbone, c_0, c_p, [0, 3], params, torch.Generator().manual_seed(3))]
    z = torch.randn(1, *backbone.latent_shape, generator=torch.Generator().manual_seed(3))
    alphas = backbone.scheduler.alphas_cumprod.double()
    for t in (999, 874, 749):
        now = torch.tensor(t)
        e_0, e_p = (backbone.denoise(z, now, c).double() for c in (c_0, c_p))
        eps = e_0 + SCALE * (e_p - e_0)
        x = (z - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
        z = (alphas[t - 125].sqrt() * x + (1 - alphas[t - 125]).sqrt() * eps).float()
    assert states[1].z.std() > 0
    assert (states[1].z - z).abs().max() <= 1e-5 * z.std()
    assert 500 <= int(states[1].t) < 625


@pytest.mark.parametrize("variant", FAMILIES)
def test_a_patch_comes_and_goes_bit_for_bit(variant: str, tmp_path: Path) -> None:
    backbone = example(variant, tmp_path).backbone
    params = replace(SMALL, num_steps=2, guidance_scale=SCALE, trainable="xattn")
    before = unet_sha256(backbone.denoiser)
    trainer = small_trainer(backbone, params)
    passes = []
    erased = trainer.run(lambda info: passes.append(info.num_passes))
    assert unet_sha256(backbone.denoiser) == before
    names = trainable_names(backbone.denoiser, "xattn")
    assert [*erased.teacher.tensors] == names
    save_patch(erased.teacher, tmp_path / "patch.safetensors")
    patch = load_patch(tmp_path / "patch.safetensors")
    safe = patched(backbone, patch)
    assert unet_sha256(safe.denoiser) != before
    remove = apply_patch(backbone.denoiser, patch)
    assert unet_sha256(backbone.denoiser) == unet_sha256(safe.denoiser)
    remove()
    assert unet_sha256(backbone.denoiser) == before
    # one pass a step of the rollout where guidance is distilled, two where not
    num_steps = 0
    for index in range(2):
        generator = torch.Generator().manual_seed(7 * 1_000_003 + index)
        trainer.texts.draw(index, params, generator)
        num_steps += sum(draw_steps(params, generator))
    branches = 1 if variant == "flux dev" else 2
    assert num_steps > 0
    assert passes[-1] == branches * 2 * num_steps + 2 * 4 * 2


@pytest.mark.parametrize("variant", ["sd3", "flux dev"])
def test_an_adapter_is_loaded_by_diffusers(variant: str, tmp_path: Path) -> None:
    found = example(variant, tmp_path)
    params = replace(SMALL, num_steps=3, learning_rate=1e-1, trainable="xattn", lora_rank=2)
    erased = small_trainer(found.backbone, params).run(lambda info: None)
    assert erased.adapter is not None
    safe = patched(found.backbone, erased.teacher)
    save_adapter(erased.adapter, tmp_path / "adapter.safetensors", safe.component)
    z = torch.randn(1, *safe.latent_shape, generator=torch.Generator().manual_seed(1))
    c, t = safe.encode(["axe"]), torch.tensor(500.0)
    with torch.no_grad():
        before, expected = (m.denoise(z, t, c) for m in (found.backbone, safe))
        found.pipeline.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
        loaded = found.backbone.denoise(z, t, c)
    torch.testing.assert_close(loaded, expected, atol=1e-5, rtol=0)
    assert (before - expected).abs().max() > 1e-4


@pytest.mark.parametrize("variant", FAMILIES)
def test_memory_knobs_change_little(variant: str, tmp_path: Path) -> None:
    backbone = example(variant, tmp_path).backbone
    params = replace(SMALL, num_steps=1, learning_rate=1e-3, ema_decay=0.0, batch_size=3)
    saving = replace(params, gradient_checkpointing=True, micro_batch=2)
    gradients = []
    for chosen in (params, saving, replace(saving, trunk_dtype="bfloat16")):
        trainer = small_trainer(backbone, chosen)
        trainer.optimizer.zero_grad = lambda: None  # keeps what the one step saw
        trainer.run(lambda info: None)
        found = [p.grad for p in trainer.student.parameters()]
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    plain, saved, half = gradients
    assert (saved - plain).norm() < 1e-4 * plain.norm()
    # the difference of two nearly equal answers: most digits of bfloat16 are gone in it
    cosine = F.cosine_similarity(half, plain, dim=0)
    assert cosine > 0.5


@torch.no_grad()
def distances(safe: Backbone, base: Backbone, text: str) -> Tensor:
    """| e_safe(c) - e_base(c_0) |^2 / | e_base(c) - e_base(c_0) |^2 at every step of a trajectory.

    The trajectory is the base's own, from latents that no training has seen.
    """
    c_0, c = (base.at_scale(base.encode([words]), 3.0) for words in ("", text))
    states = rollout(base, c_0, c, [*range(8)], SMALL, torch.Generator().manual_seed(99))
    found = []
    for state in states:
        e_0, e, e_safe = (
            model.denoise(state.z, state.t, words)
            for model, words in ((base, c_0), (base, c), (safe, c))
        )
        found.append((e_safe - e_0).square().sum() / (e - e_0).square().sum())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("variant", "trainable", "rate", "left"),
    [
        ("pixart-alpha", "xattn", 3e-3, 1 / 3),
        ("sd3", "full", 1e-3, 0.1),
        ("flux dev", "full", 1e-3, 1 / 3),
        # the pooled text, which goes past attention, is left to itself
        ("sd3", "xattn", 1e-2, 0.5),
        ("flux dev", "xattn", 1e-2, 0.5),
    ],
)
def test_training_leads_the_concept_to_the_empty_prompt(
    variant: str, trainable: Any, rate: float, left: float, tmp_path: Path
) -> None:
    backbone = example(variant, tmp_path).backbone
    params = replace(SMALL, num_steps=80, ema_decay=0.0, target="frozen", rate_schedule="cosine")
    params = replace(params, trainable=trainable, learning_rate=rate)
    trainer = small_trainer(backbone, params, concepts=(concept("axe"),))
    safe = patched(backbone, trainer.run(lambda info: None).teacher)
    assert distances(backbone, backbone, "axe").tolist() == pytest.approx([1.0] * 8)
    assert distances(safe, backbone, "axe").mean() < left


@pytest.mark.parametrize("variant", ["sd3", "flux dev"])
def test_the_null_space_is_refused_for_joint_attention(variant: str, tmp_path: Path) -> None:
    backbone = example(variant, tmp_path).backbone
    with pytest.raises(UsageError, match=r"erase\.options\.null_space: .* share"):
        small_trainer(backbone, PRESETS["sdd"]["safediff"])


def test_the_null_space_of_pixart_is_that_of_what_its_layers_read(tmp_path: Path) -> None:
    backbone = example("pixart-alpha", tmp_path).backbone
    params = replace(SMALL, num_steps=3, trainable="kv", null_space=1e-4, learning_rate=1e-1)
    keep = ("hammer", "teacup")
    patch = small_trainer(backbone, params, keep=keep).run(lambda info: None).teacher
    assert all(name.endswith(".weight") for name in patch.tensors)
    base = dict(backbone.denoiser.named_parameters())

    def moved(text: str) -> float:
        c = backbone.key_states(backbone.encode([text]))[backbone.spelt_tokens([text])]
        ratios = [
            (c @ (w - base[name]).T).norm() / (c @ base[name].T).norm()
            for name, w in patch.tensors.items()
        ]
        return float(torch.stack(ratios).mean())

    assert max(moved(text) for text in (*keep, "")) < 0.3 * moved("axe")


@pytest.mark.parametrize("variant", ["pixart-alpha", "sd3", "flux dev"])
def test_the_way_back_is_refused(variant: str, tmp_path: Path) -> None:
    backbone = example(variant, tmp_path).backbone
    with pytest.raises(UsageError, match=r"erase\.options\.way_back_share"):
        small_trainer(backbone, replace(SMALL, way_back_share=0.5))


CLOSED_FORM = [
    (UCE_PRESETS["paper"], 0.7),
    (RECE_PRESETS["nudity"], 0.7),
    (SPEED_PRESETS["paper"], 0.97),  # on 24 dimensions, kept texts leave little to edit
]
"""Settings, and what they leave of the way between the erased text and its guide."""


@pytest.mark.parametrize(("params", "left"), CLOSED_FORM)
@pytest.mark.parametrize("variant", ["sd3", "sd3.5", "flux dev"])
def test_closed_forms_are_refused_for_joint_attention(
    variant: str, params: Any, left: float, tmp_path: Path
) -> None:
    backbone = example(variant, tmp_path).backbone
    with pytest.raises(UsageError, match="joint attention"):
        solve(backbone, CONCEPTS, KEEP, params)


@pytest.mark.parametrize(("params", "left"), CLOSED_FORM)
def test_closed_forms_solve_pixart(params: Any, left: float, tmp_path: Path) -> None:
    backbone = example("pixart-alpha", tmp_path).backbone
    patch = solve(backbone, CONCEPTS, KEEP, params)
    base = kv_weights(backbone.denoiser)
    assert patch.tensors.keys() <= base.keys()
    assert all(w.isfinite().all() for w in patch.tensors.values())

    def last(text: str) -> Tensor:
        c = backbone.key_states(backbone.encode([text]))
        return c[token_mask(backbone, [text], "last")].double().squeeze(0)

    name = next(iter(patch.tensors))
    w, w_0 = patch.tensors[name].double(), base[name]
    guide = w_0 @ last("")
    before = (w_0 @ last("axe") - guide).norm()
    assert (w @ last("axe") - guide).norm() < left * before


def test_token_roles_of_t5(tmp_path: Path) -> None:
    """T5 writes no start token, its end token is the last one read."""
    backbone = example("pixart-alpha", tmp_path).backbone
    ids = backbone.tokenizer(["an axe", ""])["input_ids"]
    texts = ["an axe", ""]
    found = {role: token_mask(backbone, texts, role) for role in ("last", "content", "all")}
    length = len(ids[0])
    assert found["last"][0].nonzero().flatten().tolist() == [length - 2]
    assert found["content"][0].nonzero().flatten().tolist() == [*range(length - 1)]
    assert found["all"].sum(1).tolist() == [length, 1]
    assert found["last"][1].nonzero().flatten().tolist() == [0]


def test_half_precision_keeps_timestep_and_guidance(tmp_path: Path) -> None:
    """What a bfloat16 trunk would round to others: 946.26 to 944, 3.3 to 3.297."""
    seen: dict[str, Any] = {}

    class Network(nn.Module):
        config = None

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))

        def forward(self, z: Tensor, **inputs: Tensor) -> tuple[Tensor]:
            seen.update(inputs, z=z)
            return (z,)

    t, g = torch.tensor([946.26]), torch.tensor([3.3])
    z = torch.zeros(1, 2)
    (out,) = PatchedUNet(Network(), {})(z, timestep=t, guidance=g, hidden=z)
    assert torch.equal(seen["timestep"], t)
    assert torch.equal(seen["guidance"], g)
    assert seen["z"].dtype == seen["hidden"].dtype == torch.bfloat16
    assert out.dtype == torch.float32


@pytest.mark.parametrize("variant", FAMILIES)
def test_micro_batches_change_nothing(variant: str, tmp_path: Path) -> None:
    """24 rows, as many as T5 states: position inputs are not cut as if they were rows."""
    backbone = example(variant, tmp_path).backbone
    z = torch.randn(24, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    c = backbone.encode(["axe"]).repeat(24)
    t = torch.full((24,), 500.0)
    with torch.no_grad():
        whole = backbone.denoise(z, t, c)
        cut = backbone.with_denoiser(PatchedUNet(backbone.denoiser, {}, max_rows=7))
        torch.testing.assert_close(cut.denoise(z, t, c), whole, atol=1e-5, rtol=0)
