"""What must survive: retention groups, and the texts that training may use to protect."""

from collections.abc import Iterable, Mapping, Sequence

from safediff.gate.numbers import show
from safediff.policy import schema
from safediff.policy.bounds import largest_provable_ratio, prompts_to_prove_ratio
from safediff.policy.concepts import DEFAULT_TEMPLATES, Drawn, resolve_hub
from safediff.policy.desk import Desk
from safediff.policy.labels import check_labels
from safediff.policy.negatives import unprovable_specificity
from safediff.policy.plan import ConceptPlan, PromptPlan, RetentionCheck, VerifyPlan
from safediff.policy.problems import Loc, did_you_mean
from safediff.policy.rows import PromptRow
from safediff.policy.templates import Filled, TemplateSet, balanced, fill, placeholders


def resolve_retention(
    desk: Desk, concepts: Sequence[ConceptPlan], default: Drawn
) -> tuple[RetentionCheck, ...]:
    """Every retention group, less erased texts and what an earlier group lists by name."""
    taken = _folded(text for concept in concepts for text in concept.erase)
    checks: list[RetentionCheck] = []
    for index, entry in enumerate(desk.policy.verify.retention):
        loc: Loc = ("verify", "retention", index)
        desk.check([entry.name], (*loc, "name"))
        if any(entry.name == check.name for check in checks):
            desk.source.refuse((*loc, "name"), f"duplicate retention group '{entry.name}'")
        if entry.hub:
            checks.append(_of_hub(desk, entry, entry.hub, loc))
            continue
        rows = _rows(desk, entry, loc)
        given = tuple(rows) if rows else desk.texts(entry.texts, (*loc, "texts"))
        texts = _without(
            desk, given, taken, f"retention group '{entry.name}'", "erased, or in an earlier group"
        )
        if not rows and isinstance(entry.texts, tuple):
            taken |= _folded(given)
        checks.append(_check(desk, entry, texts, loc, Drawn() if rows else default, rows))
    return tuple(checks)


def _rows(desk: Desk, entry: schema.Retention, loc: Loc) -> dict[str, PromptRow]:
    """Texts of a table with their seeds; empty where the policy lists texts."""
    if entry.csv:
        return {row.text: row for row in desk.csv_prompts(entry.csv, (*loc, "csv"))}
    if entry.folder:
        return {row.text: row for row in desk.folder_prompts(entry.folder, (*loc, "folder"))}
    return {}


def _of_hub(
    desk: Desk, entry: schema.Retention, hub: schema.HubPrompts, loc: Loc
) -> RetentionCheck:
    """A group whose prompts are not known yet, only how many there will be."""
    chosen = TemplateSet(templates=DEFAULT_TEMPLATES, values={})
    num_prompts = entry.num_prompts or 0
    _check_provable(desk, entry, num_prompts, loc)
    return RetentionCheck(
        name=entry.name,
        min_ratio=entry.min_ratio,
        confidence=entry.confidence,
        num_prompts=num_prompts,
        prompts=(),
        judge=entry.judge or desk.policy.judge,
        line=desk.source.line((*loc, "min_ratio")),
        hub_prompts=resolve_hub(desk, hub, num_prompts),
        expect=_expect(desk, entry, chosen, loc),
    )


def _check(
    desk: Desk,
    entry: schema.Retention,
    texts: Sequence[str],
    loc: Loc,
    default: Drawn,
    rows: Mapping[str, PromptRow],
) -> RetentionCheck:
    chosen = _templates(desk, entry, loc, default)
    expect = _expect(desk, entry, chosen, loc)
    filled = balanced(desk.expand(chosen, texts, loc), desk.policy.verify.sampling.seed)
    judge = entry.judge or desk.policy.judge
    prompts = [_prompt(item, expect, rows) for item in filled]
    unknown = dict.fromkeys(label for prompt in prompts for label in prompt.labels)
    check_labels(desk, judge, unknown, (*loc, "expect" if entry.expect != ("{text}",) else "texts"))
    num_prompts = entry.num_prompts or len(prompts)
    if num_prompts > len(prompts) and not desk.incomplete:
        message = f"only {len(prompts)} distinct prompts; add texts or templates, or ask for fewer"
        desk.source.refuse((*loc, "num_prompts"), message)
    if entry.num_prompts or not desk.incomplete:
        _check_provable(desk, entry, num_prompts, loc)
    return RetentionCheck(
        name=entry.name,
        min_ratio=entry.min_ratio,
        confidence=entry.confidence,
        num_prompts=num_prompts,
        prompts=tuple(prompts[:num_prompts]),
        judge=judge,
        line=desk.source.line((*loc, "min_ratio")),
    )


def _templates(desk: Desk, entry: schema.Retention, loc: Loc, default: Drawn) -> TemplateSet:
    inherited = default.templates
    own = desk.values(entry.values, (*loc, "values"))
    values = {**(inherited.values if inherited else {}), **own}
    if entry.templates is not None:
        at = (*loc, "templates")
        return desk.template_set(entry.templates, values, at, needs_text=True)
    words = inherited.with_text().templates if inherited else ()
    return TemplateSet(templates=words or DEFAULT_TEMPLATES, values=values)


def _expect(desk: Desk, entry: schema.Retention, chosen: TemplateSet, loc: Loc) -> tuple[str, ...]:
    """The expected labels whose placeholders stand in every template."""
    everywhere = [
        name
        for name in ("text", *chosen.values)
        if all(name in placeholders(t) for t in chosen.templates)
    ]
    usable = []
    for index, label in enumerate(entry.expect):
        missing = [name for name in placeholders(label) if name not in everywhere]
        if missing:
            hint = did_you_mean(missing[0], everywhere)
            message = f"'{{{missing[0]}}}' does not stand in every template of the group{hint}"
            desk.source.refuse((*loc, "expect", index), message)
        else:
            usable.append(label)
    return tuple(usable)


def _prompt(item: Filled, expect: Iterable[str], rows: Mapping[str, PromptRow]) -> PromptPlan:
    labels = dict.fromkeys(fill(label, item.values) for label in expect)
    row = rows.get(item.prompt, PromptRow(text=item.prompt, from_table=bool(rows)))
    return PromptPlan(
        prompt=item.prompt,
        labels=tuple(labels),
        seed=row.seed,
        guidance_scale=row.guidance_scale,
        from_table=row.from_table,
    )


def _check_provable(desk: Desk, entry: schema.Retention, num_prompts: int, loc: Loc) -> None:
    if num_prompts == 0:
        desk.source.refuse((*loc, "texts"), "no text is left to check")
        return
    if entry.min_ratio == 1.0:
        message = "no number of prompts proves a ratio of 1; 0.95 takes 59 without a loss"
        desk.source.refuse((*loc, "min_ratio"), message)
        return
    rule = desk.policy.verify.budget.rule
    best = largest_provable_ratio(num_prompts, entry.confidence, rule)
    if best < entry.min_ratio:
        needed = prompts_to_prove_ratio(entry.min_ratio, entry.confidence, rule)
        message = (
            f"cannot be proven: no loss in {num_prompts} prompts bounds the ratio at "
            f"{show(best, entry.min_ratio)} (confidence {entry.confidence:g}); "
            f"{entry.min_ratio:g} takes {needed} prompts"
        )
        desk.source.refuse((*loc, "min_ratio"), message)


def check_specificity(desk: Desk, concepts: Sequence[ConceptPlan], verify: VerifyPlan) -> None:
    """Refuse too few kept prompts to prove that the judge seldom sees what is not there."""
    if desk.incomplete or not all(check.num_prompts for check in verify.retention):
        return  # refused already
    if reason := unprovable_specificity(concepts, verify):
        minimum: Loc = ("verify", "judge", "min_specificity")
        told = minimum in desk.source.marks
        desk.source.refuse(minimum if told else ("verify", "retention"), reason)


def resolve_keep(
    desk: Desk, concepts: Sequence[ConceptPlan], phrasings: TemplateSet | None
) -> tuple[str, ...]:
    """Texts that training may use: the keep list less erased and held-out ones, in phrasings."""
    entry = desk.policy.keep
    erased = _folded(text for concept in concepts for text in concept.erase)
    held_out = _folded(
        text
        for group in desk.policy.verify.retention
        if isinstance(group.texts, tuple)
        for text in group.texts
    )
    texts = _without(desk, _keep_texts(desk, entry), erased, "keep", "erased")
    texts = _without(desk, texts, held_out, "keep", "held out for a retention group")
    chosen = _keep_templates(desk, entry, phrasings)
    phrased = [item.prompt for item in desk.expand(chosen, texts, ("keep",))]
    forbidden = {p for c in concepts for p in (*c.phrasings, *(q.prompt for q in c.prompts))}
    return tuple(prompt for prompt in phrased if prompt not in forbidden)


def _keep_texts(desk: Desk, entry: schema.AnyKeep) -> tuple[str, ...]:
    if isinstance(entry, tuple):
        return desk.texts(entry, ("keep",))
    if entry.file is not None:
        return desk.text_file(entry.file, entry.excluded, ("keep",))
    texts = desk.texts(entry.texts or (), ("keep", "texts"))
    return tuple(text for text in texts if text not in entry.excluded)


def _keep_templates(
    desk: Desk, entry: schema.AnyKeep, phrasings: TemplateSet | None
) -> TemplateSet:
    values = phrasings.values if phrasings else {}
    words = phrasings.with_text().templates if phrasings else ()
    if isinstance(entry, schema.Keep):
        values = {**values, **desk.values(entry.values, ("keep", "values"))}
        if entry.templates is not None:
            at: Loc = ("keep", "templates")
            return desk.template_set(entry.templates, values, at, needs_text=True)
    return TemplateSet(templates=words or DEFAULT_TEMPLATES, values=values)


def _folded(texts: Iterable[str]) -> set[str]:
    return {text.casefold() for text in texts}


def _without(
    desk: Desk, texts: Sequence[str], taken: set[str], whose: str, why: str
) -> tuple[str, ...]:
    left = tuple(text for text in texts if text.casefold() not in taken)
    if len(left) < len(texts):
        desk.notes.append(f"{whose}: {len(texts) - len(left)} texts left out ({why})")
    return left
