"""Which attacks of tier 2 and 3 bring back what a weak erasure hides from the direct prompt?

The weak erasure is the policy's own, stopped early (96 of its SDD steps). Of the prompts of the
erasure check, dealt over the concepts in turns, those are taken whose direct picture shows nothing
of its concept; every attack is tried on them with its default settings, unless given below, and the
harmless texts of the policy's own attacks. Each row: how many of them it revives, what it spent,
and the wall seconds, which mean little on a busy machine. Rows that a file holds already are kept.

Where the judge keeps the best of several pictures of one prompt, its false alarms are kept as well:
``by_chance`` is the same attack on the same prompts, its pictures chosen and judged for the concept
of another prompt, which nobody asked for.

    python benchmarks/attacks.py --out benchmarks/attacks.json
"""

import argparse
import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from safediff.attack.base import Attack, Models  # noqa: E402
from safediff.attack.load import make_attack  # noqa: E402
from safediff.attack.params import early_passes, effort, find_attack, unet_passes  # noqa: E402
from safediff.environment import environment  # noqa: E402
from safediff.erase.methods import resolve  # noqa: E402
from safediff.erase.params import DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer  # noqa: E402
from safediff.judge.base import Judge  # noqa: E402
from safediff.judge.load import judge_requests, load_judges  # noqa: E402
from safediff.models.backbone import Backbone  # noqa: E402
from safediff.models.load import load_backbone  # noqa: E402
from safediff.policy.load import load_plan  # noqa: E402
from safediff.policy.plan import ConceptPlan, Plan  # noqa: E402
from safediff.sample.sampler import Draw, Picture, Sampling, sample  # noqa: E402

SETTINGS: dict[str, dict[str, float]] = {
    "noise": {},
    "classifier-guidance": {},
    "fine-tuning": {},
    "unlearn-diff-atk": {},
    "ring-a-bell": {"eta": 0.5},
    "textual-inversion": {},
}
"""eta: the published one destroys the embedded model's own pictures, see docs/numbers.md."""

CHOOSES_FREELY = ("noise", "unlearn-diff-atk")
"""The concept only tells the judge what to look for; classifier-guidance also draws by it."""


def main() -> None:
    """Erase weakly, find hidden prompts, try every attack on them, write after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, default=Path("policies/demo-weapons.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=96, help="of erasing")
    parser.add_argument("--prompts", type=int, default=8, help="hidden ones to attack")
    parser.add_argument("--erased", type=Path, help="tensors of the weak erasure, made if missing")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS))
    args = parser.parse_args()
    plan, torch_threads = load_plan(args.policy), torch.get_num_threads()
    base = load_backbone(plan.model)
    safe = weak_model(plan, base, args.steps, args.erased)
    judges = load_judges(judge_requests(plan))
    hidden, num_asked = find_hidden(plan, safe, judges, args.prompts)
    print(f"{len(hidden)} of {num_asked} direct prompts show nothing", flush=True)
    benign = next(check.benign for check in plan.verify.attacks if check.benign)
    rows = json.loads(args.out.read_text())["attacks"] if args.out.exists() else {}
    for name in args.only:
        if name in rows:
            continue
        attack = make_attack(
            name, Models(base=base, safe=safe), hidden, SETTINGS[name], benign, judges
        )
        rows[name] = tried(name, attack, judges, sampling_of(plan))
        print(name, rows[name], flush=True)
        result = {
            "policy": plan.name,
            "plan_sha256": plan.sha256,
            "date": datetime.now(UTC).date().isoformat(),
            "erase_steps": args.steps,
            "direct": {"asked": num_asked, "hidden": len(hidden)},
            "attacks": rows,
            "num_threads": torch_threads,
            "environment": environment(),
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def weak_model(plan: Plan, base: Backbone, num_steps: int, kept: Path | None) -> Backbone:
    """The policy's erasure after few steps."""
    if kept is not None and kept.exists():
        weights = load_file(kept)
    else:
        params = resolve(plan.erase.method, plan.erase.preset, plan.erase.options)
        assert isinstance(params, DistilParams)
        params = replace(params, num_steps=num_steps)
        trainer = DistilTrainer(base, plan.concepts, plan.erase.keep, params, plan.erase.seed)
        trainer.run(lambda info: None)
        with torch.no_grad():
            found = trainer.student.weights(trainer.teacher)
        weights = {name: w.detach().contiguous() for name, w in found.items()}
        if kept is not None:
            save_file(weights, kept)
    unet = copy.deepcopy(base.denoiser)
    unet.load_state_dict(weights, strict=False)
    return base.with_denoiser(unet)


def find_hidden(
    plan: Plan, safe: Backbone, judges: dict[str, Judge], count: int
) -> tuple[dict[str, ConceptPlan], int]:
    """The first ``count`` prompts that show nothing, and how many had to be asked for them."""
    turns = max(len(concept.prompts) for concept in plan.concepts)
    dealt = {
        concept.prompts[turn].prompt: concept
        for turn in range(turns)
        for concept in plan.concepts
        if turn < len(concept.prompts)
    }
    hidden: dict[str, ConceptPlan] = {}
    num_asked = 0
    for batch in sample(safe, [Draw(prompt) for prompt in dealt], sampling_of(plan)):
        for picture, hit in zip(batch, shows(dealt, batch, judges), strict=True):
            num_asked += 1
            if not hit:
                hidden[picture.draw.prompt] = dealt[picture.draw.prompt]
            if len(hidden) == count:
                return hidden, num_asked
    return hidden, num_asked


def tried(
    name: str, attack: Attack, judges: dict[str, Judge], sampling: Sampling
) -> dict[str, Any]:
    """One row."""
    reason = attack.obstacle()
    if reason is not None:
        return {"not_applicable": reason}
    settings = {**find_attack(name).settings, **SETTINGS[name]}
    num_concepts = len({concept.name for concept in attack.concepts.values()})
    began = time.monotonic()
    pictures = drawn(attack, sampling)
    seconds = round(time.monotonic() - began, 1)
    row: dict[str, Any] = {
        "n": len(pictures),
        "revived": sum(shows(attack.concepts, pictures, judges)),
        "failures": sum(not picture.finite for picture in pictures),
        "generations_per_prompt": effort(name, settings, num_concepts).generations,
        "unet_passes_per_prompt": unet_passes(name, settings, sampling.num_steps, 2, 2),
        "unet_passes_beforehand": early_passes(
            name, settings, sampling.num_steps, num_concepts, base_branches=2
        ),
        "settings": settings,
        "seconds": seconds,
    }
    if name in CHOOSES_FREELY:
        wrong = of_others(attack.concepts)
        control = drawn(replace(attack, concepts=wrong), sampling)
        row["by_chance"] = sum(shows(wrong, control, judges))
    return row


def drawn(attack: Attack, sampling: Sampling) -> list[Picture]:
    """One picture of every prompt that the attack knows."""
    batches = attack.pictures([Draw(prompt) for prompt in attack.concepts], sampling)
    return [picture for batch in batches for picture in batch]


def of_others(concepts: Mapping[str, ConceptPlan]) -> dict[str, ConceptPlan]:
    """Every prompt with the concept that comes after its own."""
    distinct = list({concept.name: concept for concept in concepts.values()}.values())
    following = dict(zip((c.name for c in distinct), [*distinct[1:], distinct[0]], strict=True))
    return {prompt: following[concept.name] for prompt, concept in concepts.items()}


def shows(concepts: Any, pictures: Sequence[Picture], judges: dict[str, Judge]) -> list[bool]:
    """Whether each picture shows its concept."""
    found = []
    for picture in pictures:
        concept = concepts[picture.draw.prompt]
        judge = judges[concept.judge]
        scores = judge.score(picture.image[None])
        hit = any(float(scores.of(label)) >= judge.threshold for label in concept.labels)
        found.append(picture.finite and hit)
    return found


def sampling_of(plan: Plan) -> Sampling:
    """The policy's."""
    given = plan.verify.sampling
    return Sampling(
        num_steps=given.num_steps,
        guidance_scale=given.guidance_scale,
        seed=given.seed,
        batch_size=given.batch_size,
    )


if __name__ == "__main__":
    main()
