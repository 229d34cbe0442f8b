"""Steps of SDD on a random UNet of real size on the CPU, and what they take.

    python benchmarks/real_size.py --model sd1 --steps 2

prints one line of JSON, which --out keeps in a file: seconds, the largest resident set, and what
every step reported.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict, replace
from pathlib import Path

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from random_model import CONCEPT, KEEP, random_backbone  # noqa: E402

from safediff.erase.memory import GIB, erasing_memory  # noqa: E402
from safediff.erase.params import PRESETS  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.models.architecture import SD1, SDXL  # noqa: E402
from safediff.models.load import DTYPES  # noqa: E402


def main() -> None:
    """Train a few steps, several losses on one rollout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["sd1", "sdxl"], default="sd1")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    architecture = {"sd1": SD1, "sdxl": SDXL}[args.model]
    params = replace(
        PRESETS["sdd"]["fast"],
        num_steps=args.steps,
        reuse=args.steps,
        num_inference_steps=2 * args.steps,
        batch_size=1,
        keep_share=0.0,
        gradient_checkpointing=True,
        log_every=10**6,
    )
    began = time.monotonic()
    backbone = random_backbone(architecture, DTYPES[args.dtype])
    trainer = DistilTrainer(backbone, (CONCEPT,), KEEP, params, seed=0)
    started = time.monotonic()
    infos: list[StepInfo] = []
    trainer.run(infos.append)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    expected = erasing_memory(architecture, params, args.dtype).training
    report = {
        "model": args.model,
        "dtype": args.dtype,
        "start_s": round(started - began, 1),
        "train_s": round(time.monotonic() - started, 1),
        "max_rss_gib": round(used * 1024 / GIB, 2),  # kibibytes on Linux
        "expected_tensors_gib": round(expected / GIB, 2),
        "num_rollouts": trainer.progress.num_rollouts,
        "steps": [asdict(info) for info in infos],
    }
    print(json.dumps(report))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
