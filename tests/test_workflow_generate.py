"""Image grids draw with the guard that the run's policy names, and the base without it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_policy import finished

from safediff.errors import Inconclusive, UsageError
from safediff.sample.sampler import Sampling, sample
from safediff.workflow import generate
from safediff.workflow.subject import open_subject


def test_a_runs_guard_is_drawn_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("plan.json", "patch.safetensors"):
        shutil.copy(finished().run.path / name, run / name)
    assert open_subject(str(run)).guard is None
    stored = json.loads((run / "plan.json").read_text())
    stored["plan"]["guard"] = {"name": "neg", "texts": ["bomb"]}
    (run / "plan.json").write_text(json.dumps(stored))
    guards: list[Any] = []

    def noted(backbone: Any, draws: Any, sampling: Any, *, guard: Any) -> Any:
        guards.append(guard)
        return sample(backbone, draws, sampling, guard=guard)

    monkeypatch.setattr(generate, "sample", noted)
    sampling = Sampling(num_steps=1, guidance_scale=5.0, seed=0, batch_size=4)
    generate.generate_grid(str(run), None, ["owl"], 1, sampling, tmp_path / "grid.png")
    base, erased = guards
    assert base is None
    assert (erased.name, erased.texts) == ("neg", ("bomb",))


def test_what_the_content_rules_refuse_is_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "open_subject", lambda *_: pytest.fail("a model was loaded"))
    sampling = Sampling(num_steps=1, guidance_scale=5.0, seed=0, batch_size=4)
    prompts = ["owl", "a toddler with a balloon"]
    with pytest.raises(UsageError, match="prompt: 'toddler' can denote a minor"):
        generate.generate_grid("embedded", None, prompts, 1, sampling, tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()


def test_a_picture_that_cannot_be_written_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sampling = Sampling(num_steps=1, guidance_scale=5.0, seed=0, batch_size=4)
    with pytest.raises(Inconclusive, match="cannot be written") as caught:
        generate.generate_grid("embedded", None, ["owl"], 1, sampling, tmp_path / "file" / "x.png")
    assert caught.value.next_step == "free some space or let the folder be written to"
