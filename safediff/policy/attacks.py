"""The attacks of a policy: what each tries, at what cost, and whether its limit can be met.

Every attempt starts from a prompt of the erasure check, so that its direct picture is known; the
prompts are dealt out over the concepts in turns.
"""

from collections.abc import Sequence

from safediff.attack.params import Profile, effort, find_attack
from safediff.attack.paraphrase import paraphrase
from safediff.gate.numbers import show
from safediff.policy import schema
from safediff.policy.bounds import prompts_to_prove_rate, smallest_provable_rate
from safediff.policy.content import filter_texts
from safediff.policy.desk import Desk
from safediff.policy.plan import AttackCheck, Attempt, ConceptPlan
from safediff.policy.problems import Loc, did_you_mean
from safediff.policy.templates import share
from safediff.policy.texts import TextFileError, read_rows
from safediff.policy.window import MAX_TOKENS, estimated_tokens

DEFAULT_PROMPTS = 24
MAX_BENIGN = 32
TEXT_COLUMNS = ("adv_prompt", "prompt", "text", "sensitive prompt")
"""What published prompt sets call their texts; the first that a file has is read."""

_LOC: Loc = ("verify", "attacks")


def resolve_attacks(desk: Desk, concepts: Sequence[ConceptPlan]) -> tuple[AttackCheck, ...]:
    """Every attack with its attempts; empty where the policy names none."""
    checks: list[AttackCheck] = []
    for index, given in enumerate(desk.policy.verify.attacks):
        loc: Loc = (*_LOC, index)
        entry = given if isinstance(given, schema.Attack) else _by_name(desk, given, loc)
        if any(entry.name == check.name for check in checks):
            desk.source.refuse(loc, f"duplicate attack '{entry.name}'")
        checks.append(_check(desk, entry, concepts, loc))
    return tuple(checks)


def _by_name(desk: Desk, name: str, loc: Loc) -> schema.Attack:
    if name == "cached":
        desk.leave_out(loc, "cached needs csv: write {name: cached, csv: {file: ...}}")
    return schema.Attack.model_construct(name=name)


def _check(
    desk: Desk, entry: schema.Attack, concepts: Sequence[ConceptPlan], loc: Loc
) -> AttackCheck:
    profile = find_attack(entry.name)
    if entry.name == "completion" and desk.policy.verify.sampling.num_steps < 2:
        message = (
            "completion lets the base take the first steps of a picture and the safe model the "
            "rest: write verify.sampling.num_steps: 2 or more, or leave it out"
        )
        desk.source.refuse(loc, message)
    attempts = _attempts(desk, entry, concepts, loc)
    erasure = desk.policy.verify.erasure
    if entry.max_rate is not None and attempts:
        _check_provable(desk, entry.max_rate, len(attempts), erasure.confidence, loc)
    settings = _settings(desk, entry, profile, loc)
    if entry.max_rate is not None and profile.needs_gradients and desk.policy.export.targets:
        message = (
            f"{entry.name} needs gradients, which an engine does not give, so no engine could "
            "pass: leave the limit out, or write export.targets: []"
        )
        desk.source.refuse((*loc, "max_rate"), message)
    work = effort(entry.name, settings, len({attempt.concept for attempt in attempts}))
    num_images = len(attempts) * work.generations + work.early_generations
    return AttackCheck(
        name=entry.name,
        max_rate=entry.max_rate,
        confidence=erasure.confidence,
        min_base_rate=erasure.min_base_rate,
        attempts=tuple(attempts),
        settings=settings,
        benign=_benign(desk, concepts, loc) if profile.needs_benign else (),
        num_base_images=num_images if profile.changes_base else 0,
        num_safe_images=num_images,
        line=desk.source.line((*loc, "max_rate")),
    )


def _settings(desk: Desk, entry: schema.Attack, profile: Profile, loc: Loc) -> dict[str, float]:
    """The defaults with what the policy says: own keys of ours, ``settings`` of others."""
    for name in entry.settings:
        if not profile.make:
            message = f"'{entry.name}' is ours: its settings are keys beside name"
            desk.source.refuse((*loc, "settings", name), message)
        elif name not in profile.settings:
            hint = did_you_mean(name, profile.settings)
            desk.source.refuse((*loc, "settings", name), f"no setting '{name}'{hint}")
    if profile.make:
        return {**profile.settings, **entry.settings}
    given = {key: getattr(entry, key) for key in profile.settings}
    return {k: profile.settings[k] if v is None else v for k, v in given.items()}


def _attempts(
    desk: Desk, entry: schema.Attack, concepts: Sequence[ConceptPlan], loc: Loc
) -> list[Attempt]:
    if entry.csv is not None:
        return _cached(desk, entry, entry.csv, concepts, loc)
    direct = _dealt(desk, entry, concepts, loc)
    if entry.name != "paraphrase":
        return direct
    taken = {text for c in concepts for text in (*c.phrasings, *(p.prompt for p in c.prompts))}
    erase = {concept.name: concept.erase for concept in concepts}
    attempts = []
    for number, attempt in enumerate(direct):
        words = paraphrase(attempt.direct, erase[attempt.concept], number, taken)
        if words is None:
            desk.source.refuse(loc, f"found no paraphrase of '{attempt.direct}' that may be drawn")
        else:
            taken.add(words)
            attempts.append(Attempt(concept=attempt.concept, direct=attempt.direct, prompt=words))
    return attempts


def _dealt(
    desk: Desk, entry: schema.Attack, concepts: Sequence[ConceptPlan], loc: Loc
) -> list[Attempt]:
    """The first prompts of each concept; one that two concepts share is tried for the first."""
    hub = [concept.name for concept in concepts if concept.hub_prompts]
    if hub:
        message = (
            f"prompts of '{hub[0]}' come from the hub and are not known yet; attacks start from "
            "templates, a list or a CSV file"
        )
        desk.source.refuse(loc, message)
        return []
    owners: dict[str, str] = {}
    for concept in concepts:
        for prompt in concept.prompts:
            owners.setdefault(prompt.prompt, concept.name)
    own = [[p for p, owner in owners.items() if owner == concept.name] for concept in concepts]
    # attacks that add words to a prompt need room for them
    own = [sorted(prompts, key=lambda p: estimated_tokens(p) > MAX_TOKENS) for prompts in own]
    available = [len(prompts) for prompts in own]
    asked = entry.num_prompts or min(DEFAULT_PROMPTS, sum(available))
    if sum(available) < asked and not desk.incomplete:
        message = f"only {sum(available)} prompts of the erasure check to start from; ask for fewer"
        desk.source.refuse((*loc, "num_prompts"), message)
    return [
        Attempt(concept=concept.name, direct=prompt, prompt=prompt)
        for concept, prompts, count in zip(concepts, own, share(asked, available), strict=True)
        for prompt in prompts[:count]
    ]


def _cached(
    desk: Desk,
    entry: schema.Attack,
    csv: schema.AttackPrompts,
    concepts: Sequence[ConceptPlan],
    loc: Loc,
) -> list[Attempt]:
    """Rows of the file in order; each stands against the next direct prompt of its concept."""
    at: Loc = (*loc, "csv", "file")
    try:
        wanted = TEXT_COLUMNS if csv.column is None else (csv.column,)
        column, rows = read_rows(desk.folder / csv.file, wanted)
    except TextFileError as error:
        desk.leave_out(at, str(error))
        return []
    names = [concept.name for concept in concepts]
    chosen: dict[str, str] = {}
    for row in rows:
        name = row.get(csv.concept_column, names[0] if len(names) == 1 else "")
        if name not in names:
            hint = did_you_mean(name, names) or f"; column '{csv.concept_column}' must name one"
            desk.leave_out(at, f"'{csv.file}': no concept '{name}'{hint}")
            return []
        chosen.setdefault(row[column], name)
    kept, num_skipped = filter_texts(chosen)
    if num_skipped:
        desk.notes.append(f"'{csv.file}': {num_skipped} prompts skipped by content rules")
    return _paired(desk, entry, [(text, chosen[text]) for text in kept], concepts, loc)


def _paired(
    desk: Desk,
    entry: schema.Attack,
    found: Sequence[tuple[str, str]],
    concepts: Sequence[ConceptPlan],
    loc: Loc,
) -> list[Attempt]:
    asked = entry.num_prompts or min(DEFAULT_PROMPTS, len(found))
    if len(found) < asked:
        message = f"only {len(found)} distinct prompts in the file; ask for fewer"
        desk.source.refuse((*loc, "num_prompts"), message)
    direct = {c.name: [p.prompt for p in c.prompts] for c in concepts}
    attempts: list[Attempt] = []
    for text, name in found[:asked]:
        if not direct[name]:
            desk.source.refuse(loc, f"'{name}' has no direct prompt to compare with")
            return []
        number = sum(attempt.concept == name for attempt in attempts)
        plain = direct[name][number % len(direct[name])]
        attempts.append(Attempt(concept=name, direct=plain, prompt=text))
    if entry.max_rate is not None:
        _check_directs(desk, attempts, loc)
    return attempts


def _check_directs(desk: Desk, attempts: Sequence[Attempt], loc: Loc) -> None:
    """A success counts either way, so attempts with the same direct picture are not independent."""
    num_direct = len({attempt.direct for attempt in attempts})
    if num_direct < len(attempts):
        message = (
            f"a limit counts every attempt with a direct picture of its own, and {len(attempts)} "
            f"prompts of the file share {num_direct} direct ones: lower num_prompts, let the "
            "erasure check ask more prompts of these concepts, or leave the limit out"
        )
        desk.source.refuse((*loc, "max_rate"), message)


def _benign(desk: Desk, concepts: Sequence[ConceptPlan], loc: Loc) -> tuple[str, ...]:
    """Texts of the retention groups, spread over all of them, less what is erased."""
    erased = {text.casefold() for concept in concepts for text in concept.erase}
    groups = desk.policy.verify.retention
    texts = dict.fromkeys(
        text
        for index, group in enumerate(groups)
        for text in desk.texts(group.texts, ("verify", "retention", index, "texts"))
        if text.casefold() not in erased
    )
    if not texts:
        desk.source.refuse(loc, "needs harmless texts to compare with: add a retention group")
    every = list(texts)
    count = min(MAX_BENIGN, len(every))
    return tuple(every[i * len(every) // count] for i in range(count))


def _check_provable(
    desk: Desk, max_rate: float, num_prompts: int, confidence: float, loc: Loc
) -> None:
    best = smallest_provable_rate(num_prompts, confidence)
    if max_rate == 0.0:
        message = "no number of prompts proves a rate of 0; 0.05 takes 59 without a success"
        desk.source.refuse((*loc, "max_rate"), message)
    elif best > max_rate:
        message = (
            f"cannot be proven: no success in {num_prompts} prompts bounds the rate at "
            f"{show(best, max_rate)} (confidence {confidence:g}); {max_rate:g} takes "
            f"{prompts_to_prove_rate(max_rate, confidence)} prompts"
        )
        desk.source.refuse((*loc, "max_rate"), message)
