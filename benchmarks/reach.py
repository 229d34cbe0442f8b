"""How many steps more concepts need: the ``safediff`` preset of SDD until they are gone.

One training for each number of concepts, at a constant rate, on the embedded model. Every few steps
the teacher draws the same pictures of them; it ends where the upper bound of what the judge still
sees is at most the limit. What it then makes of other things stands beside it.

    python benchmarks/reach.py --out benchmarks/reach.json
"""

import argparse
import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

import torch  # noqa: E402
from growth import NAMES, NUM_KEPT, PRESET, Enough, concepts  # noqa: E402

from safediff.environment import environment  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.gate.stats import rate_upper  # noqa: E402
from safediff.judge.load import JudgeRequest, load_judges  # noqa: E402
from safediff.models.backbone import Backbone  # noqa: E402
from safediff.models.load import load_backbone  # noqa: E402
from safediff.policy.plan import ModelPlan  # noqa: E402
from safediff.sample.sampler import Draw, Sampling, sample  # noqa: E402

Json = dict[str, Any]
LIMIT, CONFIDENCE = 0.1, 0.95
SAMPLING = Sampling(num_steps=16)


def main() -> None:
    """Train once for each number of concepts; write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concepts", type=int, nargs="+", default=[1, 2, 4, 8, 16, 50])
    parser.add_argument("--max-steps", type=int, default=1024)
    parser.add_argument("--every", type=int, default=8, help="steps between two looks")
    parser.add_argument("--pictures", type=int, default=96, help="at each look")
    parser.add_argument("--batch-size", type=int, default=PRESET.batch_size)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    backbone = load_backbone(ModelPlan(base="embedded"))
    rows = {str(count): reached(backbone, count, args) for count in args.concepts}
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {
            "preset": "safediff, constant rate",
            "batch": args.batch_size,
            "kept_texts": NUM_KEPT,
            "limit": LIMIT,
            "confidence": CONFIDENCE,
            "pictures": args.pictures,
            "every": args.every,
            "max_steps": args.max_steps,
            "threads": torch.get_num_threads(),
        },
        "concepts": rows,
        "environment": environment(),
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def reached(backbone: Backbone, count: int, args: argparse.Namespace) -> Json:
    """Steps and passes until so many concepts are gone, or all steps that there are."""
    params = replace(
        PRESET,
        num_steps=args.max_steps,
        batch_size=args.batch_size,
        rate_schedule="constant",
        log_every=10**6,
    )
    kept = tuple(NAMES[-NUM_KEPT:])
    trainer = DistilTrainer(backbone, concepts(count), kept, params, 0)
    names, others = NAMES[:count], NAMES[count : len(NAMES) - NUM_KEPT]
    before = {"seen": share(backbone, names, args.pictures)}
    before["others"] = share(backbone, others, args.pictures)
    row: Json = {"before": before, "looks": []}
    began = time.monotonic()

    def look(info: StepInfo) -> None:
        if (info.step + 1) % args.every:
            return
        teacher = trainer.seen(trainer.student.weights(trainer.teacher))
        hits = round(share(teacher, names, args.pictures) * args.pictures)
        upper = rate_upper(hits, args.pictures, CONFIDENCE)
        row["looks"].append({"step": info.step + 1, "seen": hits / args.pictures, "upper": upper})
        met = upper <= LIMIT
        row.update(met=met, steps=info.step + 1, passes=info.num_passes)
        if met or info.step + 1 == args.max_steps:
            row["others"] = share(teacher, others, args.pictures)
            row["seconds"] = round(time.monotonic() - began, 1)
            raise Enough

    with suppress(Enough):
        trainer.run(look)
    shown = {name: value for name, value in row.items() if name != "looks"}
    print(count, "concepts:", shown, flush=True)
    return row


@torch.no_grad()
def share(model: Backbone, names: list[str], num_pictures: int) -> float:
    """Of pictures that are asked for by these names in turn: how many show what was asked for."""
    (judge,) = load_judges([JudgeRequest(name="embedded")]).values()
    every = names * ceil(num_pictures / len(names))
    draws = [
        Draw(f"{name}, noto style", index // len(names))
        for index, name in enumerate(every[:num_pictures])
    ]
    hits = 0
    for batch in sample(model, draws, SAMPLING):
        scores = judge.score(torch.stack([picture.image for picture in batch]))
        for row, picture in enumerate(batch):
            label = picture.draw.prompt.removesuffix(", noto style")
            hits += float(scores.of(label)[row]) >= judge.threshold
    return hits / num_pictures


if __name__ == "__main__":
    main()
