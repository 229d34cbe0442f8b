"""What exporting takes at the real size: Stable Diffusion 1.x, 860 million random parameters.

Every row runs in a process of its own, which tells how long it took and the largest memory that it
held, interpreter and weights included:

- ``export fp32``, ``export fp16``: PyTorch UNet to engine folder.
- ``identity``: every weight of the engine held against the UNet's.
- ``swap``: other weights into that engine, without exporting again.
- ``swapped``: every weight of the new engine held against those it should hold.
- ``parity``: one call of the engine against PyTorch, 32 x 32 latents; says the largest difference.
- ``command export fp32``, ``command swap``: ``safediff export RUN --onnx`` and, of another run,
  ``--swap-weights``, from the command line to its last line: loading, hashing and comparing, too.
  The runs are random ones of that size (``random_run.py``), written before and not counted.

    python benchmarks/export_size.py --out benchmarks/export_size.json
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from random_run import RUNS, write_runs  # noqa: E402

from safediff.environment import environment  # noqa: E402
from safediff.export.identity import verify_identity  # noqa: E402
from safediff.export.runtime import ExportedUNet  # noqa: E402
from safediff.export.to_onnx import export_denoiser, swap_weights  # noqa: E402

ROWS = ("export fp32", "identity", "parity", "swap", "swapped", "export fp16")
COMMANDS = ("command export fp32", "command swap")
PREPARE = "prepare"
SIDE = 32
"""Of the latents of ``parity``."""
SIZES: dict[str, dict[str, Any]] = {
    "sd1": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "tiny": {
        "sample_size": 8,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 4,
    },
}
"""diffusers' defaults are Stable Diffusion 1.x but for what stands here."""


def main() -> None:
    """Run every row and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="sd1")
    parser.add_argument("--work", type=Path, help="folder with room for four engines")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", choices=(*ROWS, PREPARE, *COMMANDS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row == PREPARE:
        write_runs(args.work, args.size, random_unet(args.size, seed=0))
        return
    if args.row:
        measured = run_command if args.row in COMMANDS else measure
        print(json.dumps(measured(args.row, args.size, args.work)))
        return
    if args.out is None:
        parser.error("--out FILE: where the result goes")
    rows = {}
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for row in (*ROWS, PREPARE, *COMMANDS):
            command = [sys.executable, __file__, "--size", args.size, "--work", work, "--row", row]
            found = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            if row == PREPARE:
                for engine in ("engine", "other"):
                    shutil.rmtree(Path(work) / engine)
                continue
            rows[row] = json.loads(found.splitlines()[-1])
            print(f"{row:20} {json.dumps(rows[row])}", flush=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "size": args.size,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(row: str, size: str, work: Path) -> dict[str, Any]:
    """Seconds, gigabytes and what else the row says."""
    engine, other = work / "engine", work / "other"
    unet = random_unet(size, seed=1 if row.startswith("swap") else 0)
    began, more = time.perf_counter(), {}
    if row.startswith("export"):
        precision: Any = row.split()[1]
        folder = engine if precision == "fp32" else other
        export_denoiser(unet, folder, precision=precision)
        more["engine_gb"] = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
    elif row == "identity":
        verify_identity(engine / "model.onnx", unet.state_dict())
    elif row == "swap":
        swap_weights(engine, other, unet.state_dict(), metadata={})
    elif row == "swapped":
        verify_identity(other / "model.onnx", unet.state_dict())
    else:
        more["max_abs_difference"] = parity(unet, engine)
    return {
        "seconds": time.perf_counter() - began,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "parameters": sum(p.numel() for p in unet.parameters()),
        **more,
    }


def run_command(row: str, size: str, work: Path) -> dict[str, Any]:
    """Seconds and gigabytes of a command in a process of its own, and what it said at the end.

    Raises:
        SystemExit: the command failed.
    """
    first, second = (work / name for name in RUNS)
    made, swapped = work / "made", work / "made-swapped"
    given = {
        "command export fp32": (first, "--onnx", "--precision", "fp32", "--out", made),
        "command swap": (second, "--swap-weights", made, "--out", swapped),
    }[row]
    command = [sys.executable, "-m", "safediff.cli.app", "export", *map(str, given)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{row}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return {
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9,
        "said": done.stdout.strip().split(": ", 1)[1],
    }


def random_unet(size: str, seed: int) -> Any:
    """Random weights; everything that would start as zero or one is moved."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**SIZES[size]).eval().requires_grad_(False)
    for parameter in unet.parameters():
        if parameter.ndim == 1:
            parameter += 0.02 * torch.randn(parameter.shape)
    return unet


def parity(unet: Any, engine: Path) -> float:
    """The largest difference of one answer."""
    z, c = torch.randn(2, 4, SIDE, SIDE), torch.randn(2, 77, unet.config.cross_attention_dim)
    with torch.no_grad():
        expected = unet(z, torch.tensor(500.0), c, return_dict=False)[0]
        found = ExportedUNet(engine)(z, torch.tensor(500.0), c, return_dict=False)[0]
    return float((found - expected).abs().max())


if __name__ == "__main__":
    main()
