"""Which pictures a subject is asked for, and when it is done, under the sequential rule."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

from safediff.gate.sequential import Stop
from safediff.gate.stopping import Key, Order
from safediff.policy.plan import Plan
from safediff.sample.draw import Draw
from safediff.verify.assignments import Assignment


def drawing_order(plan: Plan, items: Sequence[Assignment]) -> Order:
    """Prompts of every deciding check, in the order in which they count.

    That of the plan, which is random by its seed. Concepts under one bound take turns: as many
    rounds as the smallest has prompts, each with every concept's share, in random order.
    """
    prompts: dict[str, dict[str, None]] = {}
    for item in items:
        prompts.setdefault(item.check, {})[item.draw.prompt] = None
    order: dict[str, list[Key]] = {}
    erasure = {check: [*found] for check, found in prompts.items() if check.startswith("erasure/")}
    if plan.verify.erasure.over == "all":
        order["erasure/all"] = _turns(erasure, plan.verify.sampling.seed)
    for check, found in prompts.items():
        if check not in erasure or plan.verify.erasure.over == "each":
            order[check] = [(check, prompt) for prompt in found]
    return order


def _turns(prompts: Mapping[str, Sequence[str]], seed: int) -> list[Key]:
    num_rounds = min(map(len, prompts.values()))
    keyed = [
        (number * num_rounds // len(found), _rank(seed, check, prompt), (check, prompt))
        for check, found in prompts.items()
        for number, prompt in enumerate(found)
    ]
    return [key for _, _, key in sorted(keyed)]


def _rank(seed: int, check: str, prompt: str) -> str:
    return hashlib.sha256(f"{seed}\n{check}\n{prompt}".encode()).hexdigest()


class Schedule:
    """Batches for one subject: the checks that are still open take turns, prompt by prompt."""

    def __init__(self, order: Order, images_per_prompt: int, batch_size: int) -> None:
        self.order, self.per_prompt, self.batch_size = order, images_per_prompt, batch_size
        self.asked = dict.fromkeys(order, 0)
        """How many prompts of each check were handed out."""
        self._drawn: set[Draw] = set()

    def next_batch(self, open_checks: Collection[str]) -> list[Draw]:
        """At least ``batch_size`` new pictures, or what is left; all of a prompt together."""
        batch: list[Draw] = []
        while len(batch) < self.batch_size:
            behind = [name for name in open_checks if self.asked[name] < len(self.order[name])]
            if not behind:
                break
            name = min(behind, key=self.asked.__getitem__)
            _, prompt = self.order[name][self.asked[name]]
            self.asked[name] += 1
            draws = [Draw(prompt, index) for index in range(self.per_prompt)]
            batch += [draw for draw in draws if draw not in self._drawn]
            self._drawn.update(draws)
        return batch


def draw_until_settled(
    schedule: Schedule,
    draw: Callable[[list[Draw]], None],
    look: Callable[[Mapping[str, int]], dict[str, Stop | None]],
) -> dict[str, Stop]:
    """Draw batch after batch until every check of the schedule stopped.

    Args:
        schedule: says which pictures.
        draw: draws and judges pictures.
        look: finds the stops among the first so many prompts of each check.
    """
    stops: dict[str, Stop | None] = dict.fromkeys(schedule.order)
    while open_checks := [name for name, stop in stops.items() if stop is None]:
        draw(schedule.next_batch(open_checks))
        stops = look(schedule.asked)
    return {name: stop for name, stop in stops.items() if stop is not None}
