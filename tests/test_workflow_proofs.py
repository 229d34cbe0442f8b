"""What a run cannot be judged by is said before it trains or draws anything."""

from pathlib import Path

import pytest
from small_policy import small_plan
from tiny import tiny_pipeline

from safediff.errors import Inconclusive, UsageError
from safediff.workflow.erase import erase
from safediff.workflow.run_folder import RunFolder, open_run
from safediff.workflow.ui import SilentUi
from safediff.workflow.verify import verify

EDITS = (("targets: [onnx]", "targets: []"),)


def refused(folder: Path, edit: tuple[str, str], error: type[Exception], match: str) -> RunFolder:
    plan = small_plan(folder, *EDITS, edit)
    run = open_run(plan, folder / "run", resume=False)
    with pytest.raises(error, match=match):
        erase(plan, run, SilentUi())
    return run


def nothing_was_done(run: RunFolder) -> bool:
    made = {path.name for path in run.path.iterdir()}
    return not made & {"training.jsonl", "patch.safetensors", "journal.jsonl", "images"}


def test_a_judge_of_other_pictures(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "words").save_pretrained(tmp_path / "model")
    edit = ("base: embedded", f"base: {tmp_path / 'model'}")
    run = refused(tmp_path, edit, UsageError, r"embedded judge reads 64 x 64 pictures, got \d+ x")
    assert nothing_was_done(run)
    plan = small_plan(tmp_path, *EDITS, edit)
    with pytest.raises(UsageError, match="embedded judge reads 64 x 64"):
        verify(plan, str(tmp_path / "model"), None, tmp_path / "verified", SilentUi())
    assert not (tmp_path / "verified" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("quality", "missing"),
    [
        ("fid: 9, features: inception", "torch-fidelity is not installed"),
        ("lpips: 0.5, lpips_net: vgg", "lpips is not installed"),
    ],
)
def test_metrics_that_are_not_installed(tmp_path: Path, quality: str, missing: str) -> None:
    edit = ("  collapse:", f"  quality: {{{quality}}}\n  collapse:")
    run = refused(tmp_path, edit, Inconclusive, missing)
    assert nothing_was_done(run)
