"""Rows that an engine computes at once: as many as fit, and the same results in parts."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from tiny import NUM_TOKENS, TEXT_DIM, tiny_engine
from torch import Tensor
from torch.nn.functional import interpolate

from safediff.export import exported_parts, rows
from safediff.export.exported_unet import ExportedUNet
from safediff.export.plan_profile import Profile
from safediff.export.providers import Execution
from safediff.export.session import Session

GIB = 2**30
DOWN, UP, PLAIN_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
UNETS = {
    "SD 1.x": FrozenDict(
        down_block_types=(*[DOWN] * 3, "DownBlock2D"),
        up_block_types=(PLAIN_UP, *[UP] * 3),
        attention_head_dim=8,
    ),
    "SD 2.x": FrozenDict(
        down_block_types=(*[DOWN] * 3, "DownBlock2D"),
        up_block_types=(PLAIN_UP, *[UP] * 3),
        attention_head_dim=(5, 10, 20, 20),
        num_attention_heads=None,
    ),
    "SDXL": FrozenDict(
        down_block_types=("DownBlock2D", DOWN, DOWN),
        up_block_types=(UP, UP, PLAIN_UP),
        attention_head_dim=(5, 10, 20),
    ),
}


class Counted:
    """A session that remembers how many rows it was called with."""

    def __init__(self, session: Any) -> None:
        self.session, self.inputs, self.execution = session, session.inputs, session.execution
        self.rows: list[int] = []

    def run(self, feeds: Mapping[str, Tensor], shapes: Mapping[str, Any]) -> dict[str, Tensor]:
        (shape,) = shapes.values()
        self.rows.append(shape[0])
        found: dict[str, Tensor] = self.session.run(feeds, shapes)
        return found


def call(unet: ExportedUNet, num_rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(num_rows)
    z = torch.randn(num_rows, 4, 8, 8, generator=generator)
    c = torch.randn(num_rows, NUM_TOKENS, TEXT_DIM, generator=generator)
    return unet(z, 501, c, return_dict=False)[0]  # type: ignore[index]


@pytest.mark.parametrize("num_rows", [4, 5, 8])
def test_a_unet_computes_the_same_in_parts(monkeypatch: pytest.MonkeyPatch, num_rows: int) -> None:
    unet = ExportedUNet(tiny_engine(), num_threads=1)
    counted = Counted(unet._session)
    unet._session = counted  # type: ignore[assignment]
    expected = call(unet, num_rows)
    assert counted.rows == [num_rows]  # small latents: all at once
    call(unet, 1)  # another size is seen in between
    counted.rows.clear()
    of_a_row = 4 * rows.unet_scores(unet.config, 8, 8)
    monkeypatch.setattr(rows, "LARGEST", 3 * of_a_row)
    found = call(unet, num_rows)
    assert counted.rows == {4: [2, 2], 5: [1, 2, 2], 8: [2, 2, 2, 2]}[num_rows]
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


def test_an_opened_session_divides_rows_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LARGEST", 1)
    counted = Counted(Session(tiny_engine() / "model.onnx", Execution(num_threads=1)))
    for name in ("dtype", "device", "provider", "cuda_graph"):
        setattr(counted, name, getattr(counted.session, name))
    call(ExportedUNet(tiny_engine(), session=counted), 6)  # type: ignore[arg-type]
    assert counted.rows == [6]


class Enlarged:
    """A decoder's session that makes pixels of latents."""

    device, execution = torch.device("cpu"), Execution()
    inputs: ClassVar = {"latent_sample": SimpleNamespace(shape=["batch", 4, "height", "width"])}

    def __init__(self, *_: Any) -> None:
        pass

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def run(self, feeds: Mapping[str, Tensor], shapes: Mapping[str, Any]) -> dict[str, Tensor]:
        z = feeds["latent_sample"]
        return {"sample": interpolate(z[:, :3], shapes["sample"][2:])}


def test_a_decoder_computes_the_same_in_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {"block_out_channels": [8, 16], "out_channels": 3, "scaling_factor": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(exported_parts, "Session", Enlarged)
    decoder = exported_parts.ExportedDecoder(tmp_path)
    counted = Counted(decoder._session)
    decoder._session = counted  # type: ignore[assignment]
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = decoder.decode(z)[0]
    monkeypatch.setattr(rows, "LARGEST", 4 * 16 * 16 * 16)  # features of one picture
    found = decoder.decode(z)[0]
    assert counted.rows == [3, 1, 1, 1]
    assert found.shape == (3, 3, 16, 16)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "side", "gib", "at_once"),
    [("SD 1.x", 64, 8, 8), ("SD 2.x", 96, 25, 2), ("SDXL", 128, 10, 4)],
)
def test_a_gates_rows_of_real_models(name: str, side: int, gib: int, at_once: int) -> None:
    row_bytes = 2 * rows.unet_scores(UNETS[name], side, side)
    assert 32 * row_bytes // GIB == gib
    assert rows.rows_at_once(row_bytes, Execution()) == at_once


def test_scores_of_transformers_count_texts() -> None:
    config = FrozenDict(num_attention_heads=24, patch_size=2)
    packed = {"packed_height_width": 4096, "sequence_length": 512}
    assert rows.transformer_scores(config, packed) == 24 * 4608**2
    assert rows.transformer_scores(config, {"height": 128, "width": 64}) == 24 * 2048**2


def test_pictures_of_a_decoder() -> None:
    sizes = (128, 256, 512, 512)
    assert 4 * rows.decoder_values(sizes, 128, 128) == GIB  # scores and features
    assert 4 * rows.decoder_values(sizes, 64, 64) == GIB / 4  # features


def test_no_part_is_smaller_than_a_profile_allows() -> None:
    profile = Profile(min_batch=3, opt_batch=4, max_batch=16, min_side=8, opt_side=8, max_side=8)
    at_once = rows.rows_at_once(GIB, Execution(profile=profile))
    for num_rows in range(3, 17):
        parts = rows._equal_parts(num_rows, -(-num_rows // at_once))
        sizes = [part.stop - part.start for part in parts]
        assert sum(sizes) == num_rows
        assert all(3 <= size <= at_once for size in sizes)
        assert len(set(sizes)) <= 2
