"""A policy whose whole run takes seconds, one finished run of it, the command line in a process."""

import functools
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from session_folder import made_once

from safediff.policy.load import load_plan
from safediff.policy.plan import Plan
from safediff.workflow.erase import Outcome, erase
from safediff.workflow.run_folder import RunFolder, open_run
from safediff.workflow.ui import SilentUi

# Limits that so few pictures can prove; what the demo policies claim, their own runs measure.
POLICY = """\
version: 1
name: small
model: {base: embedded}
prompts:
  templates: ["{text}, {style} style", "{style} style {text}"]
  values: {style: [noto, twemoji, fluent]}
concepts:
  - {name: bomb, erase: [bomb]}
  - {name: axe, erase: [axe]}
keep: [hammer, wrench, owl, banana, rose, pizza]
erase:
  options:
    {num_steps: 8, learning_rate: 2.0e-2, num_inference_steps: 6, batch_size: 2, reuse: 2,
     save_every_s: 0, log_every: 2}
verify:
  sampling: {num_steps: 4, guidance_scale: 5.0, batch_size: 16}
  erasure: {max_rate: 0.5, num_prompts: 12, min_base_rate: 0.1}
  retention:
    - name: ordinary
      min_ratio: 0.1
      num_prompts: 20
      texts: [crown, key, heart, star, pizza, owl, car, bus]
  collapse: {min_ratio: 0.1}
  judge: {min_sensitivity: 0.5, min_specificity: 0.5}
export: {targets: [onnx]}
"""
SUBJECTS = ("base", "teacher", "student", "onnx engine")
NUM_PICTURES = 32
NUM_STEPS = 8

# For runs of which only the end of the training matters: one step draws noise, nothing is exported.
QUICK = (("num_steps: 4, guidance", "num_steps: 1, guidance"), ("targets: [onnx]", "targets: []"))

FEWER = (("num_prompts: 12", "num_prompts: 6"), ("num_prompts: 20", "num_prompts: 10"))
"""Half the pictures; what the policy claims can be proven with them as well."""


def write_policy(folder: Path, *edits: tuple[str, str]) -> Path:
    """The policy with every (old, new) applied."""
    text = POLICY
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def small_plan(folder: Path, *edits: tuple[str, str]) -> Plan:
    return load_plan(write_policy(folder, *edits))


@functools.cache
def finished() -> Outcome:
    """A run from start to end (half a minute), once a session; do not write to its folder."""
    folder = made_once("finished", _finish)
    outcome: Outcome = pickle.loads((folder / "outcome.pickle").read_bytes())
    return outcome


def _finish(folder: Path) -> None:
    plan = small_plan(folder)
    outcome = erase(plan, open_run(plan, folder / "run", resume=False), SilentUi())
    (folder / "outcome.pickle").write_bytes(pickle.dumps(outcome))


def as_finished(run: RunFolder) -> RunFolder:
    """The run, given the patches and the engine of the finished one, which trains as it would."""
    whole = finished().run
    for path in (whole.patch, whole.student_patch, whole.training, whole.path / "training.json"):
        shutil.copy(path, run.path)
    shutil.copytree(whole.engine, run.engine)
    return run


def base_pictures(folder: Path) -> Path:
    """A copy of the finished run with the pictures of the base only, to measure others against."""
    shutil.copytree(finished().run.path / "images" / "base", folder / "images" / "base")
    lines = (finished().run.path / "journal.jsonl").read_text(encoding="utf-8").splitlines(True)
    kept = [line for i, line in enumerate(lines) if i == 0 or '"subject": "base"' in line]
    assert len(kept) == 1 + NUM_PICTURES
    (folder / "journal.jsonl").write_text("".join(kept), encoding="utf-8")
    return folder


def environment(**changes: str) -> dict[str, str]:
    """Of a child that computes with as many threads as this process, so to the same bits."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1",
        **changes,
    }


def safediff(
    *arguments: str | Path,
    code: str | None = None,
    cwd: Path | None = None,
    before: Callable[[], None] | None = None,
    **changes: str,
) -> subprocess.CompletedProcess[str]:
    """The command line in a process; ``code`` runs in it first, ``before`` before Python starts."""
    return subprocess.run(
        command(*arguments, code=code),
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment(**changes),
        preexec_fn=before,
        timeout=240,
    )


def command(*arguments: str | Path, code: str | None = None) -> list[str]:
    """What ``safediff`` starts."""
    if code is None:
        return [sys.executable, "-m", "safediff.cli.app", *map(str, arguments)]
    script = f"{code}\nimport sys\nfrom safediff.cli.app import main\nsys.exit(main())"
    return [sys.executable, "-c", script, *map(str, arguments)]
