"""The memory model against bytes counted in a real run; architectures; what the plan says."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_scripts import benchmark_script
from diffusers import UNet2DConditionModel
from policy_examples import plan_of
from torch import Tensor

from safediff.cli import memory as cli_memory
from safediff.cli.common_sizes import COMMON_SIZES, CommonSize
from safediff.cli.hours import Hours
from safediff.cli.memory import LEAN, described, lean_rows, memory_rows
from safediff.erase import memory
from safediff.erase.live_bytes import LiveBytes
from safediff.erase.memory import (
    DRIVER,
    GIB,
    SamplingMemory,
    erasing_memory,
    sampling_memory,
)
from safediff.erase.params import PRESETS
from safediff.errors import Inconclusive
from safediff.guard import base as guard_base
from safediff.guard.base import Guard
from safediff.guard.load import make_guard
from safediff.models.architecture import SD1, SD2, SDXL, Architecture, find_architecture
from safediff.models.flops import flop_counter
from safediff.models.skeleton import pass_flops
from safediff.policy.cost import SD1_PASS_FLOPS, distil_passes
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Draw, Sampling, denoise_all

ROOT = Path(__file__).parents[1]
FAST = PRESETS["sdd"]["fast"]
PASSES = {name: distil_passes(PRESETS["sdd"][name]) for name in ("paper", "fast")}


@cache
def least() -> dict[str, str]:
    return dict(lean_rows())


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return benchmark_script("memory_model")


def test_live_bytes_count_storages_once_until_they_are_freed() -> None:
    before = torch.zeros(10)
    with LiveBytes([before]) as live:
        assert live.now == 40
        a = torch.zeros(100)
        view = a[:50].reshape(5, 10)
        a += 1
        assert live.now == 440
        del a
        assert live.now == 440
        b = view + 1
        assert live.now == 640
        del b, view
        assert (live.now, live.peak) == (40, 640)
        live.reset_peak()
        assert live.peak == 40


@pytest.mark.parametrize(
    "name",
    [
        *("small", "small, checkpointing", "small, micro_batch 1", "small, bfloat16"),
        "small, no moving average",
    ],
)
def test_model_is_what_is_counted(benchmark: ModuleType, name: str) -> None:
    assert benchmark.check(*benchmark.CHECKS[name])["ratio"] == pytest.approx(1, abs=0.05)


def test_a_forgotten_copy_is_seen(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the trained tensors weigh most, one copy of them too few is beyond the tolerance."""
    size = {"sample_size": 8, "block_out_channels": (32, 96), "cross_attention_dim": 256}
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    architecture = benchmark.form(SD1, **size, **blocks)
    changes = {"trainable": "full", "null_space": 0.0, "batch_size": 1, "keep_share": 0.0}
    params = replace(benchmark.RUN, num_steps=2, reuse=2, **changes)
    assert benchmark.check(architecture, params, "float32")["ratio"] == pytest.approx(1, abs=0.05)
    whole = memory._training_state

    def forgetful(*args: Any) -> tuple[Any, list[Tensor]]:
        student, rest = whole(*args)
        return student, rest[: len(rest) * 2 // 3]

    monkeypatch.setattr(memory, "_training_state", forgetful)
    assert benchmark.check(architecture, params, "float32")["ratio"] < 0.92


def test_committed_numbers_are_those_of_the_model(benchmark: ModuleType) -> None:
    stored = json.loads((ROOT / "benchmarks" / "memory_model.json").read_text(encoding="utf-8"))
    assert set(stored["checks"]) == set(benchmark.CHECKS)
    for name, row in stored["checks"].items():
        expected = erasing_memory(*benchmark.CHECKS[name]).training / 2**20
        assert row["expected"] == pytest.approx(expected, abs=0.01), name
        assert row["ratio"] == pytest.approx(expected / row["counted"], abs=0.001), name
        assert row["ratio"] == pytest.approx(1, abs=0.05), name
    rows = stored["estimates_without_the_drivers"]
    assert set(rows) == set(benchmark.MODELS)
    found = erasing_memory(SD1, *benchmark.ROWS["fast, bfloat16"]).total / GIB
    stored_total = rows["SD 1.x, 512 px"]["erase: fast, bfloat16"]["total"]
    assert stored_total == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize(
    ("size", "architecture"), [*zip(COMMON_SIZES, (SD1, SD2, SDXL), strict=True)]
)
def test_what_doctor_says_is_what_the_model_says(
    size: CommonSize, architecture: Architecture
) -> None:
    assert size.pass_flops == pytest.approx(pass_flops(architecture), rel=1e-4)
    for preset, peak in size.peaks.items():
        found = erasing_memory(architecture, replace(PRESETS["sdd"][preset], **LEAN), "bfloat16")
        assert peak == pytest.approx(found.total, rel=0.005), preset


def test_targets_are_met_with_the_lean_knobs() -> None:
    assert (erasing_memory(SD1, FAST, "float32").total + DRIVER) / GIB > 8
    rows = least()
    fits = {
        name: int(found[1])
        for name, text in rows.items()
        if (found := re.search(r"GiB at the peak, fits (\d+) GB", text))
    }
    expected = {"SD 1.x, 512 px": (8, 8), "SD 2.x, 768 px": (8, 8), "SDXL, 1024 px": (16, 16)}
    assert fits == {
        f"{size}, {preset}": card
        for size, cards in expected.items()
        for preset, card in zip(("paper", "fast"), cards, strict=True)
    }
    assert "start from preset paper" in rows["memory, time to erase"]


@pytest.mark.parametrize(
    ("architecture", "millions"), [(SD1, 859.52), (SD2, 865.91), (SDXL, 2567.46)]
)
def test_known_architectures_have_the_published_sizes(
    architecture: Architecture, millions: float
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(architecture.unet))
    assert sum(w.numel() for w in unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_every_saving_knob_saves(benchmark: ModuleType) -> None:
    small = benchmark.SMALL
    plain = erasing_memory(small, FAST, "float32")
    for knobs in (*({k: v} for k, v in LEAN.items()), {"trunk_dtype": "bfloat16"}):
        assert erasing_memory(small, replace(FAST, **knobs), "float32").training < plain.training
    staying = erasing_memory(small, replace(FAST, offload=False), "float32")
    assert staying.training == plain.training + plain.loaded
    # this UNet is smaller than what reads its texts and draws its pictures
    assert plain.training < plain.total == plain.trunk + plain.loaded < staying.total
    half = erasing_memory(small, FAST, "bfloat16")
    assert half.trunk == plain.trunk // 2
    assert half.trained == plain.trained
    kv = half.trained - erasing_memory(small, replace(FAST, ema_decay=0.0), "bfloat16").trained
    away = erasing_memory(small, replace(FAST, offload_average=True), "bfloat16")
    assert away.trained == half.trained - kv < half.trained
    assert (away.rollout, away.step) == (half.rollout, half.step)
    layout = replace(FAST, channels_last=True, compile=True)
    assert erasing_memory(small, layout, "float32") == plain


def test_an_average_that_waits_elsewhere_comes_for_the_rollout(benchmark: ModuleType) -> None:
    """In float32 as a copy, which a student that rolls out or an average beside it needs not."""
    paper = replace(PRESETS["sdd"]["paper"], offload_average=True)

    def rollout(**knobs: Any) -> int:
        return erasing_memory(benchmark.SMALL, replace(paper, **knobs), "float32").rollout

    beside = rollout(offload_average=False)
    whole = erasing_memory(benchmark.SMALL, paper, "float32").trained // 3  # values, Adam's moments
    assert rollout() == beside + whole
    assert rollout(rollout_model="student") == rollout(ema_decay=0.0) == beside


def test_drawing_grows_with_the_batch() -> None:
    one, four = (sampling_memory(SD1, n, "float16") for n in (1, 4))
    assert one.models == four.models
    assert 3 < four.drawing / one.drawing < 5
    edited = sampling_memory(SD1, 1, "float16", ("full", "kv")).models - one.models
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(SD1.unet))
    kv = sum(
        w.numel() for n, w in unet.named_parameters() if "attn2.to_k" in n or "attn2.to_v" in n
    )
    assert edited == 2 * (859_520_964 + kv)


@torch.no_grad()
def counted_steps(architecture: Architecture, guard: Guard | None) -> int:
    """Bytes at the peak of two pictures' steps, beyond the UNet's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others are not seen by what counts
    try:
        model = benchmark_script("random_model").random_backbone(architecture)
        with LiveBytes(model.denoiser.parameters()) as live:
            held = live.now
            c_0, c = model.encode(["", ""]), model.encode(["hammer", "teacup"])
            sampling = Sampling(num_steps=2, batch_size=2)
            denoise_all(model, [Draw("hammer"), Draw("teacup")], c_0, c, sampling, guard)
    finally:
        torch.set_num_threads(threads)
    return live.peak - held


@pytest.mark.parametrize("name", [None, "sld-max", "sega-max"])
def test_every_branch_of_a_guard_is_counted(benchmark: ModuleType, name: str | None) -> None:
    guard = make_guard(name, ["axe", "bomb", "pistol", "dagger"]) if name else None
    branches = guard.num_branches if guard else 2
    expected = sampling_memory(benchmark.SMALL, 2, branches=branches).denoising
    assert expected == pytest.approx(counted_steps(benchmark.SMALL, guard), rel=0.03)


def test_rows_beyond_those_of_a_call_leave_what_lasts_from_step_to_step(
    benchmark: ModuleType,
) -> None:
    """Texts, their keys and values, latents and answers, which are small beside activations."""
    large = benchmark.form(benchmark.SMALL, sample_size=32)
    part, two, four = (sampling_memory(large, 4, branches=b, rows=8).denoising for b in (2, 4, 8))
    assert part == sampling_memory(large, 4).denoising
    assert four - two == pytest.approx(2 * (two - part), rel=0.1)
    assert two - part < 0.5 * (sampling_memory(large, 4, branches=4).denoising - part)


def test_a_plan_counts_its_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    def noting(_: Any, batch_size: int, dtype: str, edited: Any, branches: int, rows: int) -> Any:
        asked.append((batch_size, branches, rows))
        return SamplingMemory(models=GIB, denoising=0, decoding=0)

    monkeypatch.setattr(memory, "sampling_memory", noting)
    hub = "model: {base: CompVis/stable-diffusion-v1-4, revision: " + "a" * 40 + "}"
    model = ("model: {base: embedded}", hub)
    eraser = ("keep:", "erase: {method: uce, preset: paper}\nkeep:")
    memory_rows(plan_of(tmp_path, model, eraser))
    guarded = plan_of(tmp_path, model, eraser, ("keep:", "guard: {name: sega}\nkeep:"))
    memory_rows(guarded)
    assert guarded.guard is not None
    branches = 2 + len(guarded.guard.texts)
    assert asked == [(16, 2, 32), (16, branches, 16 * branches)]
    monkeypatch.setattr(guard_base, "MOST_ROWS", 48)
    memory_rows(guarded)
    assert (branches, asked[-1]) == (5, (16, 5, 48))  # calls of three branches and of two


def test_large_pictures_are_decoded_one_by_one(benchmark: ModuleType) -> None:
    large = benchmark.form(benchmark.SMALL, sample_size=128)
    two, four = (sampling_memory(large, n, "bfloat16") for n in (2, 4))
    assert four.drawing < 1.1 * two.drawing


def test_the_autoencoder_of_sdxl_is_in_float32_where_it_would_overflow(
    benchmark: ModuleType,
) -> None:
    """Unless its configuration says that it does not; a known model's says nothing."""
    known = benchmark.MIDDLE_XL
    said, fixed = (
        replace(known, vae={**known.vae, "force_upcast": told}) for told in (True, False)
    )
    assert [a.decodes_in_float32 for a in (known, said, fixed, SD1)] == [True, True, False, False]
    upcast, plain = (sampling_memory(a, 1, "float16") for a in (known, fixed))
    assert upcast.models - plain.models == 2 * 83_653_863
    assert upcast.drawing > 1.8 * plain.drawing
    halves = [memory._encoder_bytes(a, torch.bfloat16) for a in (known, fixed)]
    assert halves[0] == halves[1]


def test_architectures_are_found(tmp_path: Path) -> None:
    def found(base: str) -> Architecture | None:
        return find_architecture(ModelPlan(base=base))

    assert found("CompVis/stable-diffusion-v1-4") is SD1
    assert found("stabilityai/stable-diffusion-2-1") is SD2
    assert found("stabilityai/stable-diffusion-xl-base-1.0") is SDXL
    small = found("stabilityai/stable-diffusion-2-1-base")
    assert small is not None
    assert (small.unet["sample_size"], SD2.unet["sample_size"]) == (64, 96)
    assert found("stabilityai/sd-turbo") == small
    turbo = found("stabilityai/sdxl-turbo")
    assert turbo is not None
    assert turbo.text_encoders == SDXL.text_encoders
    assert found("somebody/something") is None
    assert found(str(tmp_path)) is None
    for part, config in {"unet": SD1.unet, "vae": SD1.vae, "text_encoder": {}}.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    read = found(str(tmp_path))
    assert read is not None
    assert dict(read.unet) == SD1.unet
    assert len(read.text_encoders) == 1
    file = find_architecture(ModelPlan(base="base.safetensors", config=str(tmp_path)))
    assert file == read
    (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(Inconclusive, match=r"unet/config\.json: cannot be read"):
        found(str(tmp_path))


def test_a_plan_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = "model: {base: CompVis/stable-diffusion-v1-4, dtype: float16, revision: " + "a" * 40 + "}"
    plan = plan_of(tmp_path, ("model: {base: embedded}", hub))
    rows = dict(memory_rows(plan))
    assert "fits 24 GB" in rows["memory, erase"]  # 24 latents at once
    assert "(16 pictures at a time)" in rows["memory, verify"]
    monkeypatch.setattr(cli_memory, "device_memory", lambda: (3.0, 4.0))
    assert described(5 * GIB).endswith("5.8 GiB at the peak, fits 8 GB, does not fit here (4 GiB)")
    assert described(99 * GIB).startswith("about 99.8 GiB at the peak, fits no single card")
    other = replace(plan, model=ModelPlan(base="somebody/something"))
    assert memory_rows(other)[0][1].startswith("not estimated")


def test_a_pass_costs_what_its_operators_do() -> None:
    """Attention included."""
    assert pass_flops(SD1) == pytest.approx(SD1_PASS_FLOPS, rel=0.001)
    larger = replace(SD1, unet={**SD1.unet, "sample_size": 128})
    # convolutions grow with the pixels, attention among pixels with their square
    assert 5 * pass_flops(SD1) < pass_flops(larger) < 16 * pass_flops(SD1)
    assert 7 < pass_flops(SDXL) / pass_flops(SD1) < 10


def test_the_attention_kernel_of_processors_is_counted() -> None:
    q, k = torch.zeros(2, 3, 64, 8), torch.zeros(2, 3, 77, 8)
    with flop_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert counter.get_total_flops() == 2 * 2 * 2 * 3 * 64 * 77 * 8


def test_hours_follow_what_a_pass_computes(tmp_path: Path) -> None:
    known, small = Hours.of(SDXL), Hours.of(SD1)
    assert known(1000) > 7 * small(1000)
    assert "TFLOP a pass" in known.rests_on
    for preset, passes in PASSES.items():
        assert least()[f"SDXL, 1024 px, {preset}"].endswith(f"; {known(passes):.2f} h")
    assert known(PASSES["paper"]) > 3 * known(PASSES["fast"])
