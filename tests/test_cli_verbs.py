"""The verbs: exit codes, one clear line, nothing half-written; in processes of their own where
signals, limits or the environment decide."""

import json
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from small_policy import (
    QUICK,
    base_pictures,
    command,
    environment,
    finished,
    safediff,
    write_policy,
)

from safediff.cli import app
from safediff.errors import Inconclusive
from safediff.judge.embedded import EmbeddedJudge, embedded_judge_folder
from safediff.models.load import embedded_folder
from safediff.workflow.run_folder import read_training

UNPINNED = ("{base: embedded}", "{base: nobody/nothing}")
PINNED = ("{base: embedded}", f"{{base: nobody/nothing, revision: {'a' * 40}}}")


def said(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that the command ended with; a second one may say what to do."""
    assert done.returncode == code, done.stderr
    first, *more = done.stderr.splitlines()
    assert not more or (len(more) == 1 and more[0].startswith("  next: ")), done.stderr
    return first


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``safediff`` without a process of its own: saves the import of torch."""

    def ran(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr("sys.argv", ["safediff", *map(str, arguments)])
        capsys.readouterr()  # what preparing the test said
        code = app.main()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)

    return ran


Ran = Callable[..., subprocess.CompletedProcess[str]]


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders."""
    return [p for p in folder.rglob("*") if p.name.startswith(".") or p.suffix == ".tmp"]


@pytest.mark.parametrize("verb", ["erase", "plan"])
def test_a_missing_policy(tmp_path: Path, verb: str) -> None:
    line = said(safediff(verb, "nope.yaml", cwd=tmp_path), 2)
    assert line == "error: no such policy file: nope.yaml"
    assert list(tmp_path.iterdir()) == []


def test_an_unpinned_hub_model(tmp_path: Path) -> None:
    done = safediff("erase", write_policy(tmp_path, UNPINNED))
    assert done.returncode == 2
    assert "revision must pin a commit" in done.stderr


def test_an_unreachable_hub_model(tmp_path: Path) -> None:
    policy, run = write_policy(tmp_path, PINNED), tmp_path / "run"
    home = str(tmp_path / "hub")
    done = safediff("erase", policy, "--out", run, "--quiet", HF_HOME=home)
    assert said(done, 3).startswith("error: model.base 'nobody/nothing': cannot be loaded: ")
    assert sorted(p.name for p in run.iterdir()) == ["environment.json", "plan.json"]


def test_an_unknown_model(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "out"
    done = here("verify", "nosuchmodel", write_policy(tmp_path), "--out", out, "--quiet")
    assert said(done, 2) == (
        "error: MODEL 'nosuchmodel': no such folder or file, and no --revision of a hub id is given"
    )
    assert not out.exists()


def test_corrupted_weights(tmp_path: Path, here: Ran) -> None:
    model = shutil.copytree(embedded_folder(), tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    policy = write_policy(tmp_path, ("{base: embedded}", "{base: ./model}"))
    done = here("erase", policy, "--out", tmp_path / "run", "--quiet")
    line = said(done, 3)
    assert line.startswith(f"error: model.base '{model}': cannot be loaded: ")
    assert not (tmp_path / "run" / "training.jsonl").exists()


@pytest.mark.parametrize("name", ["judge.json", "judge.safetensors", "tokenizer/vocab.json"])
def test_a_corrupted_judge(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(embedded_judge_folder(), tmp_path / "judge")
    (folder / name).write_bytes((folder / name).read_bytes()[:-1000])
    if name.startswith("tokenizer"):
        (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(Inconclusive, match="the embedded judge cannot be read"):
        EmbeddedJudge(folder)


def test_a_folder_that_cannot_be_written(tmp_path: Path, here: Ran) -> None:
    policy = write_policy(tmp_path)
    for verb in (("erase", policy), ("verify", "embedded", policy)):
        done = here(*verb, "--out", policy / "run", "--quiet")
        assert "Not a directory" in said(done, 3)
    assert policy.is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.yaml"]


def test_a_file_in_place_of_the_run_folder(tmp_path: Path, here: Ran) -> None:
    policy = write_policy(tmp_path)
    done = here("erase", policy, "--out", policy, "--quiet")
    assert said(done, 2) == f"error: {policy}: is a file, not a folder"


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk(tmp_path: Path) -> None:
    """The first file of 100 kB, the checkpoint, does not fit."""
    run = tmp_path / "run"
    done = safediff(
        *("erase", write_policy(tmp_path), "--out", run, "--quiet"), before=_small_files
    )
    assert said(done, 3).startswith(f"error: {run / 'checkpoint.safetensors'}: cannot be written")
    assert not (run / "checkpoint.safetensors").exists()
    assert not (run / "patch.safetensors").exists()
    assert leftovers(run) == []


def test_ctrl_c_and_resume(tmp_path: Path, here: Ran) -> None:
    edits = (*QUICK, ("{num_steps: 8, learning_rate", "{num_steps: 24, learning_rate"))
    run = tmp_path / "run"
    arguments = ("erase", write_policy(tmp_path, *edits), "--out", run, "--quiet")
    process = subprocess.Popen(
        command(*arguments), stderr=subprocess.PIPE, env=environment(), text=True
    )
    deadline = time.monotonic() + 200
    while len(read_training(run / "training.jsonl")) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "interrupted\n"
    assert leftovers(run) == []
    assert not (run / "verdict.teacher.json").exists()
    # one denoising step draws noise: nothing can be decided, which ends with 3
    done = safediff(*arguments, "--resume")
    assert said(done, 3) == "error: whether policy small is met could not be decided"
    assert [row["step"] for row in read_training(run / "training.jsonl")] == [*range(24)]
    assert (run / "report.html").exists()
    assert not (run / "release").exists()
    assert said(here(*arguments), 2) == f"error: {run}: already holds a run"


def test_verify_ends_with_1_where_the_policy_is_not_met(tmp_path: Path, here: Ran) -> None:
    out = base_pictures(tmp_path / "out")
    arguments = ["verify", "embedded", str(write_policy(tmp_path)), "--out", str(out), "-q"]
    done = here(*arguments)
    assert said(done, 1) == "error: policy small is not met"
    assert "bomb" in done.stdout.lower()
    assert here(*arguments, "--exit-zero").returncode == 0
    assert json.loads((out / "verdict.model.json").read_text("utf-8"))["verdict"] == "fail"


def test_verify_ends_with_0_where_it_is(tmp_path: Path, here: Ran) -> None:
    out = base_pictures(tmp_path / "out")
    release = finished().run.path / "release"
    arguments = ["verify", str(release), str(write_policy(tmp_path)), "--out", str(out), "-q"]
    done = here(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "verdict.onnx-engine.json").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "error: no target given"),
        (("--trt",), "error: tensorrt is not installed (No module named 'tensorrt')"),
        (
            ("--onnx", "--precision", "int4"),
            "error: --precision int4: expected fp32, fp16, bf16, int8, int8-weights",
        ),
        (("--onnx", "--target", "SM89"), "error: --target: belongs to --trt-rtx"),
        (
            ("--onnx", "--max-error", "0.1"),
            "error: --max-error: belongs to --precision int8",
        ),
        (
            ("--onnx", "--precision", "int8", "--max-error", "0"),
            "error: --max-error 0: expected a positive number",
        ),
        (("--onnx", "--static"), "error: --static and --refit: say how a plan is built"),
        (
            ("--trt", "--refit", "--swap-weights", "x.plan"),
            "error: --static and --refit: say how a plan is built",
        ),
        (
            ("--trt", "--swap-weights", "x.plan", "--layout", "triton", "--opset", "23"),
            "error: --opset and --layout: of a plan that is built; --swap-weights takes one that "
            "is there as it is",
        ),
        (
            ("--trt-rtx", "--swap-weights", "x.plan", "--target", "SM89"),
            "error: --target: of a plan that is built; --swap-weights takes one that is there as "
            "it is",
        ),
        (
            ("--trt", "--swap-weights", "x.plan", "--gate", "p.yaml"),
            "error: --gate: a plan is gated after its weights were swapped, in a second step",
        ),
        (
            ("--trt-rtx", "--layout", "triton"),
            "error: --layout: of a plan there is triton alone, of --trt",
        ),
        (("--onnx", "--layout", "triton"), "error: --layout and --gate belong to a whole folder"),
        (("--onnx", "--opset", "7"), "error: --opset 7: expected 18 or 23"),
    ],
)
def test_export_refuses(
    tmp_path: Path,
    here: Ran,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(here("export", "RUN", *options), 2) == line
    assert list(tmp_path.iterdir()) == []


def test_export_wants_a_run(tmp_path: Path, here: Ran) -> None:
    assert (
        said(here("export", tmp_path, "--onnx"), 2)
        == f"error: {tmp_path}: is neither a run nor a release"
    )


def test_report_on_an_empty_folder(tmp_path: Path) -> None:
    assert said(safediff("report", tmp_path), 2) == f"error: {tmp_path}: holds no verdict"


def test_report_shows_a_finished_run() -> None:
    done = safediff("report", finished().run.path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "teacher" in done.stdout
    markdown = safediff("report", finished().run.path, "--markdown")
    written = (finished().run.path / "report.md").read_text("utf-8")
    assert sorted(markdown.stdout.split()) == sorted(written.split())


def test_plan(tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = here("plan", write_policy(tmp_path), "--json")
    assert done.returncode == 0
    plan = json.loads(done.stdout)
    assert [concept["name"] for concept in plan["concepts"]] == ["bomb", "axe"]
    table = here("plan", write_policy(tmp_path))
    assert "upper bound <= 0.5 over all" in table.stdout


def test_plan_says_what_is_not_estimated_and_where_engines_draw(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    told = here("plan", write_policy(tmp_path, PINNED)).stdout
    assert re.search(r"GPU hours +│ not estimated: what a pass computes", told)
    assert re.search(r"engine pictures +│ on the CPU \(.* found here\)", told)
    assert re.search(r"student +│ \+ [\d,]+ passes", told)


def test_doctor(here: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    done = here("doctor")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(rf"torch +│ {torch.__version__.split('+')[0]}", done.stdout)
    assert "intact, unet" in done.stdout
    assert re.search(r"ONNX Runtime's provider +│ CPUExecutionProvider", done.stdout)
    assert re.search(r"CUDAExecutionProvider: listed, but can't", done.stdout)
    assert re.search(r"extra lora +│ installed", done.stdout)
    assert re.search(r"memory, time to erase +│ with dtype bfloat16, gradient_check", done.stdout)
    for size in ("SD 1.x, 512 px", "SD 2.x, 768 px", "SDXL, 1024 px"):
        for preset in ("paper", "fast"):
            row = rf"{size}, {preset} +│ about [\d.]+ GiB at the peak, fits \d+ GB.*; [\d.]+ h"
            assert re.search(row, done.stdout), (size, preset)


def test_generate(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "grid.png"
    options = ("--model", finished().run.path, "--steps", "2", "--count", "2", "--out", out)
    done = here("generate", "owl, noto style", "key, noto style", *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    with Image.open(out) as image:
        width, height = image.size
    assert width > 2 * 2 * 128  # base and result, two pictures each
    assert height > 2 * 128
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_generate_sets_a_guard_beside_the_model(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "grid.png"
    options = ("--steps", "2", "--count", "1", "--out", out, "--guard", "neg", "--avoid", "axe")
    done = here("generate", "axe, noto style", *options)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as image:
        pixels = np.asarray(image)
    plain, guarded = pixels[44:, :128], pixels[44:, -128:]
    assert plain.shape == guarded.shape
    assert (plain != guarded).any()


def test_generate_needs_a_text_to_steer_away_from(tmp_path: Path, here: Ran) -> None:
    done = here("generate", "axe", "--guard", "neg", "--out", tmp_path / "grid.png")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "guard 'neg' has no text to steer away from" in done.stderr
    done = here("generate", "axe", "--avoid", "axe", "--out", tmp_path / "grid.png")
    assert done.returncode == 2
    assert "there is no guard" in done.stderr
