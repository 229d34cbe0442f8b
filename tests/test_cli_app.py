"""Exit codes, every row of the table in a process of its own; what the entry imports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from safediff.cli.app import VERBS, build_app

# -P keeps the checkout off the path: where the wheel is installed, the wheel is tested.
MODULE = [sys.executable, "-P", "-m", "safediff.cli.app"]

FAKE_VERB = """
import os, signal, sys, time, types
import safediff.cli.app as app
from safediff.errors import *
module = types.ModuleType("safediff.cli.fake")
def fake(size: int = 1) -> None:
    {body}
module.fake = fake
sys.modules["safediff.cli.fake"] = module
app.VERBS = ("fake", "schema")
sys.argv = ["safediff", "fake", *sys.argv[1:]]
sys.exit(app.main())
"""


def run(
    *command: str, cache: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NO_COLOR": "1", **environment}
    if cache:
        env["XDG_CACHE_HOME"] = str(cache)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)


def run_verb(body: str, *arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-P", "-c", FAKE_VERB.format(body=body), *arguments, cache=cache)


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("return 5", 0, ""),
        ("raise PolicyViolated('rate too high')", 1, "error: rate too high\n"),
        ("raise UsageError('bad', 'do this')", 2, "error: bad\n  next: do this\n"),
        ("raise PolicyError(['p.yaml:1:1: error: x'])", 2, "p.yaml:1:1: error: x\n"),
        ("raise Inconclusive('no judge')", 3, "error: no judge\n"),
        ("raise SafediffError('other')", 3, "error: other\n"),
        ("raise MemoryError", 3, "error: out of memory\n  next: lower verify.sampling.batch_size"),
        (
            "raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory')",
            *(3, "error: out of memory on the GPU\n  next: safediff plan POLICY"),
        ),
        ("raise OSError(28, 'No space left on device', 'x.bin')", 3, "error: x.bin: No space left"),
        ("open('/proc/nope/x', 'w')", 3, "error: /proc/nope/x: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", 130, "interrupted\n"),
        ("sys.exit('message')", 3, ""),
        ("sys.exit(1)", 3, ""),
        ("sys.exit(7)", 3, ""),
        ("import typer; raise typer.Abort", 3, ""),
        ("import typer; typer.confirm('sure?', abort=True)", 3, ""),
    ],
)
def test_exit_codes(tmp_path: Path, body: str, code: int, stderr: str) -> None:
    done = run_verb(body, cache=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(stderr)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.rglob("*")) == []


def test_an_internal_error_leaves_a_crash_log(tmp_path: Path) -> None:
    done = run_verb("{}['absent']", cache=tmp_path)
    assert done.returncode == 3
    (log,) = tmp_path.rglob("crash-*.log")
    assert done.stderr == f"internal error: KeyError('absent'); details: {log}\n"
    text = log.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert "python 3." in text
    assert "torch" in text


def test_a_crash_log_finds_another_place(tmp_path: Path) -> None:
    (tmp_path / "safediff").write_text("in the way", encoding="utf-8")
    done = run(
        *(sys.executable, "-P", "-c", FAKE_VERB.format(body="{}['absent']")),
        cache=tmp_path,
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 3
    assert list(tmp_path.glob("crash-*.log"))


GROUP = "; ".join(
    [
        "import atexit, threading",
        "atexit.register(threading.Event().wait)",  # as NCCL's destructors, without the others
        "dist = types.ModuleType('torch.distributed')",
        "dist.is_available = dist.is_initialized = lambda: True",
        "sys.modules['torch.distributed'] = dist",
    ]
)


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("raise UsageError('bad', 'do this')", 2, "error: bad\n  next: do this\n"),
        ("raise Inconclusive('gone')", 3, "error: gone\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_one_of_several_processes_leaves_at_once_after_an_error(
    tmp_path: Path, body: str, code: int, stderr: str
) -> None:
    done = run_verb(f"{GROUP}; print('begun'); {body}", cache=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (code, "begun\n", stderr)


def test_it_leaves_a_crash_log_behind(tmp_path: Path) -> None:
    done = run_verb(f"{GROUP}; {{}}['absent']", cache=tmp_path)
    assert done.returncode == 3
    (log,) = tmp_path.rglob("crash-*.log")
    assert done.stderr == f"internal error: KeyError('absent'); details: {log}\n"
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_a_verb_that_cannot_be_imported_is_no_violation(tmp_path: Path) -> None:
    code = "import sys, safediff.cli.app as a; a.VERBS = ('absent',); sys.exit(a.main())"
    done = run(sys.executable, "-P", "-c", code, cache=tmp_path)
    assert done.returncode == 3
    assert "internal error: ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("arguments", [["--nope"], ["nope"], ["validate"], ["validate", "--x"], []])
def test_wrong_command_lines_exit_with_2(arguments: list[str]) -> None:
    assert run(*MODULE, *arguments).returncode == 2


def test_a_wrong_option_value_exits_with_2(tmp_path: Path) -> None:
    assert run_verb("pass", "--size", "many", cache=tmp_path).returncode == 2


def test_options_come_from_the_environment_and_flags_beat_them(tmp_path: Path) -> None:
    script = FAKE_VERB.format(body="print(size)")
    command = (sys.executable, "-P", "-c", script)
    assert run(*command, cache=tmp_path, SAFEDIFF_FAKE_SIZE="7").stdout == "7\n"
    assert run(*command, "--size", "8", cache=tmp_path, SAFEDIFF_FAKE_SIZE="7").stdout == "8\n"


def test_no_variable_changes_what_a_verdict_ends_with() -> None:
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    denied = {"verify": {"exit_zero", "fail_on"}, "serve": {"accept_unverified"}}
    for verb, names in denied.items():
        without = {
            p.name for p in commands[verb].params if not getattr(p, "allow_from_autoenv", True)
        }
        assert without >= names, verb
    (json_,) = (p for p in commands["plan"].params if p.name == "json_")
    assert json_.envvar == "SAFEDIFF_PLAN_JSON"


def test_a_closed_pipe_is_no_violation() -> None:
    command = f"set -o pipefail; '{sys.executable}' -P -m safediff.cli.app schema | true"
    done = run("bash", "-c", command)
    assert done.returncode in (0, 3)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_version_ignores_the_environment() -> None:
    from safediff import __version__

    assert run(*MODULE, "--version").stdout == f"safediff {__version__}\n"
    assert run(*MODULE, "schema", SAFEDIFF_VERSION="1").stdout.startswith("{")


# What start in most of a second, or need it: a help text, a schema and a completion need none.
HEAVY = {
    "PIL",
    "accelerate",
    "diffusers",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "safetensors",
    "scipy",
    "torch",
    "torchmetrics",
    "transformers",
}


@pytest.mark.parametrize("arguments", [["--help"], ["validate", "--help"], ["schema"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Seconds stand in benchmarks/startup.json: a test of time would measure the machine."""
    code = (
        "import sys; from safediff.cli.app import main; sys.argv[0] = 'safediff'; code = main()\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else code)"
    )
    done = run(sys.executable, "-P", "-c", code, *arguments)
    assert done.returncode == 0, done.stderr


def test_help_loses_no_words() -> None:
    """Typer reads [words] in a help text as markup and drops them."""
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    for verb in VERBS:
        for parameter in commands[verb].params:
            assert not re.search(r"\[[A-Za-z/<]", parameter.help or ""), (verb, parameter.name)
