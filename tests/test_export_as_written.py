"""A graph that is run as it was written predicts what the session that rewrites it does."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_engine, tiny_unet

from safediff.errors import Inconclusive
from safediff.export.as_written import AsWritten
from safediff.export.engine_files import MODEL_NAME, Precision
from safediff.export.exported_unet import ExportedUNet


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 5e-3)])
@pytest.mark.parametrize("xl", [False, True])
def test_it_predicts_the_same(xl: bool, precision: Precision, limit: float) -> None:
    folder = tiny_engine(xl, precision)
    written = AsWritten(folder / MODEL_NAME, 1)
    assert (written.provider, written.device.type) == ("CPUExecutionProvider", "cpu")
    random = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 2, 2, generator=random)
    text = torch.randn(2, 77, 32 if xl else 16, generator=random)
    added = {"text_embeds": torch.randn(2, 16, generator=random), "time_ids": torch.ones(2, 6)}
    given = {"added_cond_kwargs": added} if xl else {}
    plain, opened = ExportedUNet(folder, session=written), ExportedUNet(folder, num_threads=1)
    t = torch.tensor(501)
    found, expected = (e(z, t, text, return_dict=False, **given)[0] for e in (plain, opened))  # type: ignore[index]
    with torch.no_grad():
        reference = tiny_unet(xl)(z, t, text, return_dict=False, **given)[0]
    assert (found - expected).abs().max() < limit
    assert (found - reference).abs().max() < limit


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / MODEL_NAME).write_bytes(b"no graph")
    with pytest.raises(Inconclusive, match="the engine can't be loaded: ") as caught:
        AsWritten(tmp_path / MODEL_NAME, 1)
    assert "\n" not in str(caught.value)
