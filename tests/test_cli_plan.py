"""What is said of memory and hours before the first step: folders, single files, the GPU."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from fake_gpu import FakeGpu
from safetensors.torch import save_file
from small_policy import small_plan, write_policy
from test_cli_verbs import Ran, here
from tiny import unet_of

from safediff.cli import comparison_memory, hours, memory
from safediff.cli.hours import RTX_4070_TFLOPS, Card, Hours, card_here
from safediff.cli.memory import memory_rows
from safediff.compare.rows import ROWS
from safediff.erase import memory as erase_memory
from safediff.erase.methods import find_method
from safediff.erase.params import DistilParams
from safediff.errors import Inconclusive, UsageError
from safediff.export.single_file import UNET, unet_name
from safediff.models.architecture import SD1, SD2, SDXL, Architecture, find_architecture
from safediff.models.load import load_pipeline, single_file_pipeline
from safediff.models.original_layout import CONV_IN, ENCODER_2, OPEN_CLIP, REFINER, VELOCITIES
from safediff.policy.cost import gpu_hours
from safediff.policy.plan import ModelPlan

__all__ = ["here"]
FOLDER = ("{base: embedded}", "{base: ./model, dtype: bfloat16}")
FILE = ("{base: embedded}", "{base: ./model.safetensors}")
LEAST = (
    "num_steps: 8,",
    "num_steps: 8, gradient_checkpointing: true, micro_batch: 1, offload_average: true,",
)
TRUNK = ("micro_batch: 1,", "micro_batch: 1, trunk_dtype: bfloat16,")
ADVICE = "gradient_checkpointing, micro_batch 1, offload_average, trunk_dtype bfloat16, offload"


def config_folder(folder: Path, architecture: Architecture = SD1) -> None:
    """A diffusers folder without weights, as ``plan`` reads it."""
    parts = {"unet": architecture.unet, "vae": architecture.vae}
    parts |= {"text_encoder": architecture.text_encoders[0]}
    for part, config in parts.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def small_folder(folder: Path) -> None:
    """The same of a UNet that is counted in no time."""
    unet = {k: v for k, v in unet_of("sd").config.items() if not k.startswith("_")}
    config_folder(folder, Architecture(unet=unet, vae=SD1.vae, text_encoders=SD1.text_encoders))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda: None)
    monkeypatch.setattr(hours, "card_here", lambda: None)


@pytest.mark.usefixtures("no_gpu")
def test_a_folder_without_weights_is_enough(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    config_folder(tmp_path / "model")
    done = here("plan", write_policy(tmp_path, FOLDER))
    assert done.returncode == 0, done.stderr
    (gib,) = re.findall(
        r"memory, erase +│ about ([\d.]+) GiB at the peak, fits 8 GB +│", done.stdout
    )
    assert 2.5 < float(gib) < 8
    assert re.search(r"memory, verify +│ about [\d.]+ GiB .*\(16 pictures at a time\)", done.stdout)
    rests = r"estimated for one RTX 4070 at 0\.8 TFLOP a pass"
    assert re.search(rf"GPU hours +│ about [\d.]+ \+ [\d.]+, {rests}", done.stdout)
    assert "less memory" not in done.stdout
    monkeypatch.setattr(memory, "device_memory", lambda: (3.0, 4.0))
    monkeypatch.setattr(hours, "card_here", lambda: Card("NVIDIA Test", 583.0))
    told = here("plan", write_policy(tmp_path, FOLDER)).stdout
    assert re.search(r"memory, verify +│ .*does not fit here \(4 GiB\)", told)
    assert re.search(r"less memory, verify +│ with verify.sampling.batch_size 1: about", told)
    assert "estimated for the NVIDIA Test here (583 TFLOPS in a matrix product;" in told


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("options", [(), ("--compare",)])
def test_notes_of_the_policy_are_told_beside_the_table(
    tmp_path: Path, here: Ran, options: tuple[str, ...]
) -> None:
    small_folder(tmp_path / "model")
    done = here("plan", write_policy(tmp_path, FOLDER), *options)
    (line,) = [line for line in done.stderr.splitlines() if "preset" in line]
    assert line.startswith("note: erase.preset: 'safediff', the default, was tuned on the emb")
    assert "note:" not in done.stdout


@pytest.mark.usefixtures("no_gpu")
def test_a_peak_beyond_the_gpu_gets_one_line_of_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_folder(tmp_path / "model")
    plan = small_plan(tmp_path, FOLDER)
    assert "less memory, erase" not in dict(memory_rows(plan))
    monkeypatch.setattr(memory, "COMMON_GIB", 0.5)  # no GPU: against a common one
    rows = dict(memory_rows(plan))
    assert rows["less memory, erase"].startswith(f"with {ADVICE}: about ")
    monkeypatch.setattr(memory, "device_memory", lambda: (79.0, 80.0))  # what is there counts
    assert [name for name, _ in memory_rows(plan)] == ["memory, erase", "memory, verify"]
    monkeypatch.setattr(memory, "device_memory", lambda: (0.0, 0.5))
    rows = dict(memory_rows(small_plan(tmp_path, FOLDER, LEAST, TRUNK)))
    assert rows["less memory, erase"].startswith(f"{ADVICE} are set: take a larger card")


@pytest.fixture
def fresh() -> Iterator[None]:
    card_here.cache_clear()
    yield
    card_here.cache_clear()


@pytest.fixture
def fake_card(fresh: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.dtype]]:
    """A GPU that multiplies in a thousandth of a second; the precisions that it was asked for."""
    asked: list[torch.dtype] = []
    randn, ticks = torch.randn, iter((1.0, 1.0 + 1e-3 * hours.NUM_TIMED))

    def noting(*size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        asked.append(dtype)
        found: torch.Tensor = randn(*size, dtype=dtype, device=device)
        assert found.is_cuda
        return found

    monkeypatch.setattr(hours, "SIDE", 64)
    monkeypatch.setattr(hours, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(torch, "randn", noting)
    for name, value in {
        "is_available": True,
        "is_bf16_supported": True,
        "synchronize": None,
        "get_device_name": "NVIDIA Test",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value, **_: value)
    with FakeGpu():
        yield asked


def test_hours_are_scaled_by_one_product_on_the_gpu(fake_card: list[torch.dtype]) -> None:
    card = card_here()
    assert card == Card("NVIDIA Test", pytest.approx(2 * 64**3 / 1e-3 / 1e12))  # type: ignore[arg-type]
    assert card_here() is card  # measured once
    assert fake_card == [torch.bfloat16]
    fast = Hours(1e12, Card("NVIDIA Test", 10 * RTX_4070_TFLOPS))
    assert fast(1000) == pytest.approx(gpu_hours(1000, 1e12) / 10)
    assert fast.rests_on.startswith("estimated for the NVIDIA Test here (583 TFLOPS")
    assert fast.rests_on.endswith(" at 1.0 TFLOP a pass")
    assert Hours(1e12, None)(1000) == gpu_hours(1000, 1e12)


def test_an_old_gpu_is_asked_in_its_own_precision(
    fake_card: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert card_here() is not None
    assert fake_card == [torch.float16]


def test_a_gpu_without_room_leaves_the_known_rate(
    fake_card: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "randn", full)
    assert card_here() is None


def test_without_a_gpu_the_known_rate_holds(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert card_here() is None
    assert Hours(1e12, card_here()).rests_on == "estimated for one RTX 4070 at 1.0 TFLOP a pass"


def original_shapes(unet: Any, *more: str) -> dict[str, tuple[int, ...]]:
    attends = ["CrossAttn" in block for block in unet.config.up_block_types]
    shapes = {
        UNET + unet_name(key, unet.config.layers_per_block, attends): tuple(value.shape)
        for key, value in unet.state_dict().items()
    }
    return shapes | dict.fromkeys(more, (8,))


def write_checkpoint(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A header, and behind it a hole as large as the tensors: nothing is written there."""
    header, size = dict[str, Any](), 0
    for name, shape in shapes.items():
        end = size + 2 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [size, end]}
        size = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + size)
    return path


def on_meta(architecture: Architecture, **changes: Any) -> Any:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config({**architecture.unet, **changes})


@pytest.mark.parametrize(
    ("architecture", "more", "expected"),
    [
        (SD1, (), SD1),
        (SD2, (), SD2),
        (SDXL, (f"{ENCODER_2}model.ln_final.weight",), SDXL),
        (SDXL, (f"{REFINER}ln_final.weight",), None),
        (SD1, (f"{ENCODER_2}model.ln_final.weight",), None),
    ],
    ids=["sd1", "sd2", "sdxl", "refiner", "no sdxl"],
)
def test_a_single_file_is_known_by_its_header(
    tmp_path: Path, architecture: Architecture, more: tuple[str, ...], expected: Architecture | None
) -> None:
    shapes = original_shapes(on_meta(architecture), *more)
    path = write_checkpoint(tmp_path / "model.safetensors", shapes)
    assert find_architecture(ModelPlan(base=str(path))) is expected


def test_other_networks_in_a_single_file_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"

    def found(shapes: dict[str, tuple[int, ...]]) -> Architecture | None:
        return find_architecture(ModelPlan(base=str(write_checkpoint(path, shapes))))

    whole = original_shapes(on_meta(SD1))
    assert found(whole | {CONV_IN: (320, 9, 3, 3)}) is None  # inpainting
    fewer = {name: shape for name, shape in whole.items() if "middle_block.1" not in name}
    assert found(fewer) is None  # distilled, smaller
    assert found(original_shapes(unet_of("sd"))) is None
    assert found({"x": (1,)}) is None


@pytest.mark.usefixtures("no_gpu")
def test_plan_estimates_a_single_file_without_config(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    path = write_checkpoint(tmp_path / "model.safetensors", original_shapes(on_meta(SD1)))
    done = here("plan", write_policy(tmp_path, FILE))
    assert re.search(r"memory, erase +│ about [\d.]+ GiB at the peak, fits", done.stdout)
    assert re.search(r"GPU hours +│ about .* at 0\.8 TFLOP a pass", done.stdout)
    os.truncate(path, path.stat().st_size - 2)
    done = here("plan", write_policy(tmp_path, FILE))
    assert done.returncode == 3
    assert done.stderr.startswith(f"error: {path}: cannot be loaded (")
    save_file({"x": torch.zeros(1)}, path)
    assert "not estimated" in here("plan", write_policy(tmp_path, FILE)).stdout


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("options", [(), ("--compare",)])
def test_plan_refuses_a_single_file_that_loading_refuses(
    tmp_path: Path, here: Ran, options: tuple[str, ...]
) -> None:
    shapes = original_shapes(on_meta(SD2), f"{OPEN_CLIP}ln_final.weight")
    path = write_checkpoint(tmp_path / "model.safetensors", shapes)
    with pytest.raises(UsageError, match=r"model\.config must be given") as caught:
        load_pipeline(ModelPlan(base=str(path)))
    done = here("plan", write_policy(tmp_path, FILE), *options)
    assert done.returncode == 2
    assert str(caught.value).splitlines()[0] in done.stderr
    assert not done.stdout
    config_folder(tmp_path / "config", SD2)
    single_file_pipeline(path, str(tmp_path / "config"))
    write_checkpoint(path, shapes | {VELOCITIES: (0,)})
    with pytest.raises(Inconclusive, match=r"scheduler_config\.json: cannot be read"):
        single_file_pipeline(path, str(tmp_path / "config"))


def test_a_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model.safetensors", {"x": (100,)})
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(Inconclusive, match=r"model\.safetensors: cannot be loaded") as caught:
        find_architecture(ModelPlan(base=str(path)))
    assert caught.value.next_step == "check that the file is whole"


@pytest.mark.usefixtures("no_gpu")
def test_a_comparison_says_which_row_needs_most_memory(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    small_folder(tmp_path / "model")
    asked: list[tuple[str, int]] = []
    whole = erase_memory.erasing_memory

    def noting(found: Architecture, params: DistilParams, dtype: str) -> Any:
        asked.append((params.trainable, params.batch_size))
        return whole(found, params, dtype)

    monkeypatch.setattr(erase_memory, "erasing_memory", noting)
    done = here("plan", write_policy(tmp_path, FOLDER), "--compare")
    assert done.returncode == 0, done.stderr
    *_, erase, draw = done.stdout.splitlines()
    assert re.match(r"memory, erase: (\S+) needs most, about [\d.]+ GiB at the peak, fits", erase)
    assert re.match(r"memory, draw: (\S+) needs most, about .* \(16 pictures at a time\)", draw)
    assert len(asked) == len(set(asked)) < 5  # what another row's needs cover is not computed


def test_no_row_is_left_out_that_needs_most() -> None:
    """Against the peak of every row's settings."""
    unet = {k: v for k, v in unet_of("sd").config.items() if not k.startswith("_")}
    small = Architecture(unet=unet, vae=SD1.vae, text_encoders=())
    found = {id: find_method(m).presets[p] for id, m, p in TRAINED}
    rows = {id: params for id, params in found.items() if isinstance(params, DistilParams)}
    chosen = comparison_memory._undominated(rows, lambda id: comparison_memory._needs(rows[id]))
    peaks = {
        id: erase_memory.erasing_memory(small, p, "float32").training for id, p in rows.items()
    }
    assert max(peaks, key=peaks.__getitem__) in chosen
    assert len(chosen) < len(rows) == 5


TRAINED = [
    (id, ROWS[id].method or "", ROWS[id].preset)
    for id in ("esd-u-3", "esd-x-3", "sdd-teacher", "sdd-safediff", "sdd-fast")
]
