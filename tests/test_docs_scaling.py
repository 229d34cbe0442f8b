"""The blocks of docs/scaling.md: shells, launchers, Slurm and Kubernetes would take them."""

import contextlib
import io
import re
import shlex
import subprocess
from argparse import ArgumentParser
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from test_docs import wrong
from torch.distributed.run import get_args_parser

PAGE = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
(MANIFEST,) = re.findall(r"```yaml\n(apiVersion.*?)```", PAGE, re.DOTALL)
(SLURM,) = (block for block in SCRIPTS if "#SBATCH" in block)
SBATCH = {"nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "requeue"}
"""Of the options of sbatch, those that the page uses."""
LAUNCHED = re.compile(r"(torchrun|accelerate launch) .*")


@cache
def parser_of(launcher: str) -> ArgumentParser:
    """The launcher's own."""
    return get_args_parser() if launcher == "torchrun" else launch_command_parser()


def launches(script: str) -> list[tuple[str, list[str]]]:
    """Launchers with their arguments, variables replaced by 1."""
    plain = re.sub(r"\$\w+", "1", script.replace("\\\n", " "))
    found = (LAUNCHED.search(line) for line in plain.splitlines())
    return [(m[1], shlex.split(m[0].removeprefix(m[1]))) for m in found if m]


def faults(script: str) -> list[str]:
    """What the shell, a launcher, our command line or Slurm would not take."""
    shell = subprocess.run(
        ["bash", "-n"], input=script, capture_output=True, text=True, check=False
    )
    found = shell.stderr.splitlines()
    for launcher, arguments in launches(script):
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                known = parser_of(launcher).parse_args(arguments)
        except SystemExit:
            found.append(said.getvalue().splitlines()[-1])
            continue
        if not known.module or known.training_script != "safediff.cli.app":
            found.append(f"{launcher} starts {known.training_script}")
            continue
        ours = wrong(shlex.join(["safediff", *known.training_script_args]))
        found += [] if ours is None else [ours]
    lines = [line.removeprefix("#SBATCH") for line in script.splitlines() if "#SBATCH" in line]
    options = {option for line in lines for option in re.findall(r"--([\w-]+)", line)}
    return found + sorted(options - SBATCH)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_taken(script: str) -> None:
    assert faults(script) == []


def test_the_page_starts_each_launcher() -> None:
    found = [(name, args[args.index("-m") + 2]) for s in SCRIPTS for name, args in launches(s)]
    assert Counter(found) == {
        ("torchrun", "erase"): 3,
        ("torchrun", "verify"): 1,
        ("accelerate launch", "erase"): 1,
        ("accelerate launch", "verify"): 1,
    }


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("--nproc-per-node 8", "--procs-per-node 8", "unrecognized arguments: --procs-per-node"),
        ("--rdzv-backend c10d", "--rdzv-backends c10d", "unrecognized"),
        ("--resume", "--resum", "option --resum of erase"),
        ("app erase", "app erse", "verb erse"),
        ("safediff.cli.app", "safediff.app", "torchrun starts safediff.app"),
        ("--requeue", "--requeued", "requeued"),
        ("head=$(", "head=$((", "unexpected EOF"),
    ],
)
def test_a_planted_fault_is_seen(old: str, new: str, said: str) -> None:
    assert SLURM.count(old) == 1
    assert any(said in fault for fault in faults(SLURM.replace(old, new)))


def test_a_planted_fault_of_accelerate_is_seen() -> None:
    (script,) = (block for block in SCRIPTS if "accelerate launch" in block)
    assert any("--multi_gpus" in f for f in faults(script.replace("--multi_gpu", "--multi_gpus")))


def test_slurm_starts_one_launcher_a_machine_and_a_process_a_gpu() -> None:
    assert SLURM.startswith("#!/bin/bash\n")  # sbatch takes nothing else
    assert "--ntasks-per-node=1" in SLURM
    (gpus,) = re.findall(r"--gpus-per-node=(\d+)", SLURM)
    assert f"--nproc-per-node {gpus} " in SLURM


def test_slurm_gives_each_process_cores() -> None:
    """And srun, which does not take over what sbatch was told."""
    (cores,) = re.findall(r"#SBATCH.* --cpus-per-task=(\d+)", SLURM)
    (gpus,) = re.findall(r"--gpus-per-node=(\d+)", SLURM)
    assert int(cores) >= int(gpus)
    (line,) = (line for line in SLURM.splitlines() if line.startswith("srun"))
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in line


def manifest_faults(text: str) -> list[str]:
    """What does not fit together in the manifest."""
    service, job = yaml.safe_load_all(text)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    (command,) = container["args"]
    (arguments,) = (arguments for _, arguments in launches(command))
    paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    in_memory = [
        paths.get(volume["name"])
        for volume in pod["volumes"]
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    ]
    name, gpus = job["metadata"]["name"], container["resources"]["limits"]["nvidia.com/gpu"]
    wanted: dict[str, tuple[Any, Any]] = {
        "kinds": ((service["kind"], job["kind"]), ("Service", "Job")),
        "versions": ((service["apiVersion"], job["apiVersion"]), ("v1", "batch/v1")),
        "headless": (service["spec"]["clusterIP"], "None"),
        "selector": (service["spec"]["selector"], {"job-name": name}),
        "subdomain": (pod["subdomain"], service["metadata"]["name"]),
        "mode": (spec["completionMode"], "Indexed"),
        "pods": (spec["parallelism"], spec["completions"]),
        "restart": (pod["restartPolicy"] in ("Never", "OnFailure"), True),
        "shell": (container["command"], ["sh", "-c"]),
        "nnodes": (option(arguments, "--nnodes"), str(spec["completions"])),
        "processes": (option(arguments, "--nproc-per-node"), str(gpus)),
        "leader": (option(arguments, "--master-addr"), f"{name}-0.{pod['subdomain']}"),
        "rank": ('--node-rank "$JOB_COMPLETION_INDEX"' in command, True),
        "mounts": (
            sorted(mount["name"] for mount in container["volumeMounts"]),
            sorted(volume["name"] for volume in pod["volumes"]),
        ),
        "shared memory": (in_memory, ["/dev/shm"]),
    }
    return faults(command) + [what for what, (a, b) in wanted.items() if a != b]


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_the_manifest_fits_together() -> None:
    assert manifest_faults(MANIFEST) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("parallelism: 4", "parallelism: 2", "pods"),
        ("--nnodes 4", "--nnodes 3", "nnodes"),
        ("safediff-0.safediff", "safediff-0", "leader"),
        ("{job-name: safediff}", "{job: safediff}", "selector"),
        ("nvidia.com/gpu: 8", "nvidia.com/gpu: 4", "processes"),
        ("{name: runs, mountPath", "{name: run, mountPath", "mounts"),
        ("mountPath: /dev/shm", "mountPath: /shm", "shared memory"),
        ("medium: Memory", "medium: ''", "shared memory"),
        ("--master-port 29500", "--main-port 29500", "unrecognized arguments: --main-port"),
        ("--out /runs", "--output /runs", "option --output of erase"),
    ],
)
def test_a_planted_fault_of_the_manifest_is_seen(old: str, new: str, said: str) -> None:
    assert MANIFEST.count(old) == 1
    assert any(said in fault for fault in manifest_faults(MANIFEST.replace(old, new)))
