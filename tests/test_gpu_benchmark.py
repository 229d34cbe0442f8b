"""The one command that measures on a GPU, run on the CPU with tiny networks."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_scripts import FOLDER, benchmark_script

COMMON = {"passes_per_s", "steps_per_s", "share_of_ceiling", "minutes_of_the_recipe"}
MEMORY = {"peak_gib", "reserved_gib", "driver_gib", "device_used_gib"}
SLOW = ("engine", "compile")
"""Stages that compile or export: minutes on a CPU."""


def gpu_sh(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "WHEELS": "nowhere",
        **changes,
    }
    return subprocess.run(
        ["sh", str(FOLDER / "gpu.sh"), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=570,
    )


def measured(folder: Path, *options: str) -> dict[str, Any]:
    done = gpu_sh(folder, "--tiny", "--stage-s", "0.1", *options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "gpu_erase.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measured(tmp_path_factory.mktemp("gpu"), "--skip", *SLOW)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return benchmark_script("gpu_erase")


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    return benchmark_script("gpu_targets")


def require_positive(name: str, row: dict[str, Any]) -> None:
    asked = {"pictures_per_s", "share_of_ceiling"} if name.endswith("draw") else COMMON
    assert asked | MEMORY <= set(row), name
    assert all(row[key] > 0 for key in asked), name
    assert {row[key] for key in MEMORY} == {None}  # there is no GPU
    if " erase: " in name:
        assert row["expected_peak_gib"] > 0
    if not name.endswith("draw"):
        assert 0 < row["timed_steps"] <= row["steps_of_the_recipe"]
        assert row["minutes_of_the_recipe"] == pytest.approx(
            row["passes_of_the_recipe"] / row["passes_per_s"] / 60
        )


def test_every_stage_gave_positive_numbers(result: dict[str, Any], script: ModuleType) -> None:
    assert result["failed"] == {}
    names = script.stages(True, 1.0, lambda: None)
    assert result["not_begun"] == [name for name in names if any(word in name for word in SLOW)]
    assert list(result["stages"]) == [name for name in names if name not in result["not_begun"]]
    for name, row in result["stages"].items():
        require_positive(name, row)
    assert (result["weights"], result["running"]) == ("random", None)
    assert result["ceiling_tflops"] > 0


@pytest.mark.nightly
def test_an_engine_is_written_and_a_compiled_step_taken(tmp_path: Path) -> None:
    found = measured(tmp_path, "--only", *SLOW, "--stage-limit-s", "400")
    assert found["failed"] == {}
    assert found["stages"]["sd1 engine"]["export_s"] > 0
    require_positive(
        "sd1 erase: safediff, compile", found["stages"]["sd1 erase: safediff, compile"]
    )


def test_both_families_are_measured_as_docs_advise_and_beside_the_published_loop(
    result: dict[str, Any],
) -> None:
    for family in ("sd1", "sdxl"):
        ratios = result["times_reference"][f"{family} erase: paper"]
        assert set(ratios) == {f"{family} reference loop, {d}" for d in ("float16", "float32")}
        for reference, ratio in ratios.items():
            own = result["stages"][f"{family} erase: paper"]
            loop = result["stages"][reference]
            assert ratio["recipe"] == pytest.approx(
                loop["minutes_of_the_recipe"] / own["minutes_of_the_recipe"]
            )
            assert ratio["pass"] == pytest.approx(own["passes_per_s"] / loop["passes_per_s"])
        target = result["targets"][family]
        assert target["met"] is None  # tiny networks say nothing of it
        lean = target["settings"][f"{family} erase: paper, lean"]
        assert lean["minutes"]["measured"] > 0
        assert lean["gb"]["measured"] is None
    assert set(result["times_reference"]) == {n for n in result["stages"] if " erase: " in n}


@pytest.mark.parametrize(
    ("minutes", "gib", "met"),
    [
        (4.9, 7.9, True),
        (5.1, 7.9, False),
        (4.9, 8.1, False),
        (4.9, None, None),
        (5.1, None, False),
    ],
)
def test_a_target_is_met_by_one_setting_as_a_whole(
    rules: ModuleType, minutes: float, gib: float | None, met: bool | None
) -> None:
    name = "sd1 erase: fast, lean"
    row = {"minutes_of_the_recipe": minutes, "device_used_gib": gib}
    found = rules.targets({name: row})["sd1"]
    assert (found["met"], found["met_by"]) == (met, [name] if met else [])
    other = {"minutes_of_the_recipe": 1.0, "device_used_gib": 70.0}
    fails = rules.targets({name: row, "sd1 erase: safediff": other, "sd1 draw": {}})["sd1"]
    assert fails["met"] is met  # one is fast and the other one small: neither is both
    assert fails["settings"]["sd1 erase: safediff"]["gb"]["met"] is False
    assert rules.targets({name: row}, tiny=True)["sd1"]["met"] is None
    assert rules.targets({})["sdxl"]["met"] is None


def test_without_the_published_loop_there_is_nothing_to_compare_with(rules: ModuleType) -> None:
    row = {"minutes_of_the_recipe": 2.0, "passes_per_s": 100.0}
    loop = {"minutes_of_the_recipe": 30.0, "passes_per_s": 10.0}
    assert rules.times_reference({"sd1 erase: fast": row}) == {"sd1 erase: fast": {}}
    rows = {"sd1 erase: fast": row, "sdxl reference loop, float32": loop}
    assert rules.times_reference(rows) == {"sd1 erase: fast": {}}
    rows = {"sd1 erase: fast": row, "sd1 reference loop, float32": loop}
    expected = {"sd1 reference loop, float32": {"recipe": 15.0, "pass": 10.0}}
    assert rules.times_reference(rows) == {"sd1 erase: fast": expected}


def test_a_card_must_have_what_is_reserved_and_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = benchmark_script("gpu_measure")
    monkeypatch.setattr(measure, "DEVICE", "cuda")
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 9 * gib)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 12 * gib)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 11 * gib)
    expected = {"peak_gib": 11, "reserved_gib": 12, "driver_gib": 1, "device_used_gib": 13}
    assert measure._memory() == expected


def bench(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    out: Path,
    found: dict[str, Any],
    *options: str,
    ceiling: Callable[..., float] = lambda size: 1.0,
) -> dict[str, Any]:
    """``main`` with stages of the test's own; a product of halves takes some CPUs long."""
    monkeypatch.setattr(script, "ceiling_tflops", ceiling)
    monkeypatch.setattr(script, "stages", lambda *_: found)
    monkeypatch.setattr(sys, "argv", ["gpu_erase.py", "--out", str(out), "--tiny", *options])
    script.main()
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def good() -> dict[str, Any]:
    return {"passes_per_s": 1.0}


def bad() -> Any:
    raise RuntimeError("CUDA out of memory\nand more")


def test_a_stage_that_fails_costs_no_other(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = bench(
        script, monkeypatch, tmp_path / "x.json", {"a": good, "b": bad, "c": good, "d": good},
        *("--skip", "d"), ceiling=bad,  # which is called with a size
    )  # fmt: skip
    assert list(found["stages"]) == ["a", "c"]
    assert found["failed"]["b"] == "RuntimeError: CUDA out of memory"
    assert found["failed"]["ceiling"].startswith("TypeError")
    assert found["not_begun"] == ["d"]


def test_a_stage_that_ended_the_process_is_noted_and_the_rest_measured(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, calls = tmp_path / "x.json", []

    def ends() -> dict[str, Any]:
        calls.append(json.loads(out.read_text(encoding="utf-8")))
        raise KeyboardInterrupt  # stands for a crash: nothing after it is run

    stages = {"a": good, "b": ends, "c": good}
    with pytest.raises(KeyboardInterrupt):
        bench(script, monkeypatch, out, stages)
    assert [call["running"] for call in calls] == ["b"]
    assert calls[0]["not_begun"] == ["c"]
    stages["a"] = stages["b"] = bad  # are not asked again
    found = bench(script, monkeypatch, out, stages, "--resume")
    assert list(found["stages"]) == ["a", "c"]
    assert found["failed"] == {"b": "ended the process"}
    assert found["running"] is None


def test_a_stage_that_hangs_is_cut_off(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    codes, over = [], Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), over.set()))

    def hangs() -> dict[str, Any]:
        assert over.wait(60)
        return {}

    found = bench(script, monkeypatch, tmp_path / "x.json", {"a": hangs}, "--stage-limit-s", "0.2")
    assert codes == [script.AGAIN]
    assert found["failed"] == {"a": "took longer than 0 s"}


def test_an_unusable_gpu_asks_for_a_process_of_its_own(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "x.json"
    bench(script, monkeypatch, out, {"a": good})
    monkeypatch.setattr(script, "require_alive", bad)
    with pytest.raises(SystemExit) as ended:
        bench(script, monkeypatch, out, {"a": good, "b": bad, "c": good}, "--resume")
    assert ended.value.code == script.AGAIN
    left = json.loads(out.read_text(encoding="utf-8"))
    assert (list(left["failed"]), left["not_begun"]) == (["b"], ["c"])


def test_no_stage_is_begun_without_time_for_it(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = bench(script, monkeypatch, tmp_path / "x.json", {"a": good}, "--budget-s", "10")
    assert (found["stages"], found["not_begun"]) == ({}, ["a"])


def fake_python(folder: Path, script: str) -> Path:
    """Stands for the interpreter: ``-c`` is asked what is missing, ``-m`` is venv or pip."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{script}\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def calls(folder: Path) -> list[str]:
    lines = (folder / "calls").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(("-m", "benchmarks/"))]


ENVIRONMENT = """\
case "$*" in
  -c*sysconfig*) dirname "$0";;
  -c*) echo torch onnx_ir;;
  *venv*) mkdir -p {site}/bin && cp "$0" {site}/bin/python;;
  *) exec sleep 60;;
esac"""
"""Makes an environment whose Python does what it does itself."""


def test_what_is_missing_is_installed_with_what_it_needs_within_the_limit(tmp_path: Path) -> None:
    site = tmp_path / "site"
    python = fake_python(tmp_path, ENVIRONMENT.format(site=site))
    began = time.monotonic()
    done = gpu_sh(PYTHON=str(python), OUT=str(tmp_path / "out"), LIMIT_S="2", SITE=str(site))
    assert time.monotonic() - began < 20
    assert done.returncode == 124
    assert calls(tmp_path) == [  # nothing was begun after the limit
        f"-m venv --system-site-packages --without-pip {site}",
        "-m pip install --quiet torch onnx-ir",
    ]
    assert "not installed: torch onnx-ir" in done.stderr


def test_an_environment_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 'case "$1" in -c) echo torch;; -m) exit 1;; esac')
    done = gpu_sh(PYTHON=str(python), OUT=str(tmp_path / "out"), SITE=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    assert "not installed: torch" in done.stderr
    assert calls(tmp_path)[-1].startswith("benchmarks/gpu_erase.py")


def wheel(folder: Path) -> None:
    """A module that nothing has, as a wheel."""
    folder.mkdir()
    name = "lacking_here-1.0"
    files = {
        "lacking_here.py": "",
        f"{name}.dist-info/METADATA": "Metadata-Version: 2.1\nName: lacking-here\nVersion: 1.0\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as written:
        for path, text in files.items():
            written.writestr(path, text)


def test_wheels_lie_beside_the_packages_of_the_interpreter(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    folders = {"WHEELS": str(tmp_path / "wheels"), "SITE": str(tmp_path / "site")}
    done = gpu_sh(tmp_path / "out", "--help", PYTHONPATH="", **folders)
    assert done.returncode == 0, done.stderr
    assert "not installed" not in done.stderr
    asked = "import lacking_here, importlib.util as u; print(u.find_spec('torch').origin)"
    seen = subprocess.run(
        [tmp_path / "site" / "bin" / "python", "-c", asked],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == torch.__file__


def test_measuring_is_stopped_at_the_limit(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 'case "$1" in -c) ;; *) exec sleep 60;; esac')
    began = time.monotonic()
    done = gpu_sh(tmp_path / "out", "--tiny", PYTHON=str(python), LIMIT_S="2")
    assert time.monotonic() - began < 20
    assert done.returncode == 124
    (asked,) = calls(tmp_path)
    assert asked.startswith(f"benchmarks/gpu_erase.py --out {tmp_path}/out/gpu_erase.json")
    assert asked.endswith(" --tiny")


@pytest.mark.parametrize(
    ("ended", "count", "code"),
    [("exit 75", 2, 0), ("kill -SEGV $$", 2, 0), ("exit 1", 1, 1), ("exit 2", 1, 2)],
)
def test_a_crash_starts_the_rest_again(tmp_path: Path, ended: str, count: int, code: int) -> None:
    python = fake_python(tmp_path, f'case "$*" in *--resume*|-c*) ;; *) {ended};; esac')
    done = gpu_sh(tmp_path / "out", "--stage-s", "3", PYTHON=str(python), LIMIT_S="60")
    assert done.returncode == code, done.stderr
    asked = calls(tmp_path)
    assert len(asked) == count
    assert all(line.endswith("--stage-s 3") for line in asked)
    assert ["--resume" in line for line in asked] == [False, True][:count]
