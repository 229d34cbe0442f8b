"""Concepts of a policy: erase texts, labels, phrasings for the eraser and prompts for the check."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from safediff.attack.paraphrase import paraphrase
from safediff.gate.numbers import show
from safediff.policy import schema
from safediff.policy.bounds import prompts_to_prove_rate, smallest_provable_rate
from safediff.policy.desk import Desk
from safediff.policy.labels import check_labels
from safediff.policy.plan import ConceptPlan, ErasureCheck, HubPrompts, PromptPlan
from safediff.policy.problems import Loc
from safediff.policy.rows import PromptRow
from safediff.policy.templates import TemplateSet, balanced, fill, placeholders, share, shuffled

DEFAULT_TEMPLATES = ("{text}",)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What one concept, or the policy as a default for all, says about prompts."""

    templates: TemplateSet | None = None
    fixed: tuple[PromptRow, ...] = ()
    hub: HubPrompts | None = None
    num_paraphrases: int = 0
    """Of every prompt."""


def resolve_prompts(
    desk: Desk, entry: schema.AnyPrompts | None, loc: Loc, default: Drawn | None = None
) -> Drawn:
    """Read a ``prompts`` entry; templates and values that it lacks come from ``default``."""
    if entry is None:
        return default or Drawn()
    if isinstance(entry, tuple):
        desk.check(entry, loc)
        return Drawn(fixed=tuple(PromptRow(text=text) for text in dict.fromkeys(entry)))
    count = entry.paraphrases
    if entry.csv:
        return Drawn(fixed=desk.csv_prompts(entry.csv, (*loc, "csv")), num_paraphrases=count)
    if entry.folder:
        rows = desk.folder_prompts(entry.folder, (*loc, "folder"))
        return Drawn(fixed=rows, num_paraphrases=count)
    if entry.hub:
        return Drawn(hub=resolve_hub(desk, entry.hub))
    inherited = default.templates if default else None
    own = desk.values(entry.values, (*loc, "values"))
    values = {**(inherited.values if inherited else {}), **own}
    if entry.templates is not None:
        chosen = desk.template_set(entry.templates, values, (*loc, "templates"))
    else:
        words = inherited.templates if inherited else DEFAULT_TEMPLATES
        chosen = TemplateSet(templates=words, values=values)
    return Drawn(templates=chosen, num_paraphrases=count)


def resolve_hub(desk: Desk, entry: schema.HubPrompts, num_prompts: int = 0) -> HubPrompts:
    """Prompts to fetch later; a branch that can move is noted."""
    if entry.revision == "main":
        desk.notes.append(
            f"prompts of {entry.dataset} come from its branch main, which can move; "
            "the run records the commit"
        )
    return HubPrompts(
        dataset=entry.dataset,
        revision=entry.revision,
        split=entry.split,
        column=entry.column,
        num_prompts=num_prompts,
    )


def resolve_concepts(
    desk: Desk, default: Drawn, phrasings: TemplateSet | None
) -> tuple[ConceptPlan, ...]:
    """Every concept with all the prompts that it has; ``draw`` chooses among them."""
    _check_names(desk)
    return tuple(
        _concept(desk, entry, ("concepts", index), default, phrasings)
        for index, entry in enumerate(desk.policy.concepts)
    )


def _concept(
    desk: Desk, entry: schema.Concept, loc: Loc, default: Drawn, phrasings: TemplateSet | None
) -> ConceptPlan:
    desk.check([entry.name], (*loc, "name"))
    erase = desk.texts(entry.erase, (*loc, "erase"))
    labels = entry.labels or entry.erase
    judge = entry.judge or desk.policy.judge
    at_labels: Loc = (*loc, "labels" if entry.labels else "erase")
    desk.check(labels, at_labels)
    check_labels(desk, judge, labels, at_labels)
    drawn = resolve_prompts(desk, entry.prompts, (*loc, "prompts"), default)
    spoken = phrasings or drawn.templates
    rows = {row.text: row for row in drawn.fixed}
    tabled = any(row.from_table for row in drawn.fixed)
    prompts = tuple(rows)
    if desk.policy.verify.budget.rule == "sequential":
        prompts = shuffled(prompts, desk.policy.verify.sampling.seed)
    if drawn.templates:
        filled = desk.expand(drawn.templates, erase, (*loc, "prompts"))
        ordered = balanced(filled, desk.policy.verify.sampling.seed)
        prompts = tuple(item.prompt for item in ordered)
    prompts = _with_paraphrases(prompts, erase, drawn.num_paraphrases)
    targets = _targets(desk, spoken, erase, loc) if spoken else dict.fromkeys(erase, "")
    return ConceptPlan(
        name=entry.name,
        erase=erase,
        labels=labels,
        judge=judge,
        phrasings=tuple(targets),
        toward=tuple(targets.values()) if any(targets.values()) else (),
        prompts=tuple(
            _prompt(rows.get(text, PromptRow(text=text, from_table=tabled)), labels)
            for text in prompts
        ),
        hub_prompts=drawn.hub,
    )


def _prompt(row: PromptRow, labels: tuple[str, ...]) -> PromptPlan:
    return PromptPlan(
        prompt=row.text,
        labels=labels,
        seed=row.seed,
        guidance_scale=row.guidance_scale,
        from_table=row.from_table,
    )


def _with_paraphrases(
    prompts: tuple[str, ...], erase: Sequence[str], count: int
) -> tuple[str, ...]:
    """Every prompt, followed by ``count`` rewordings of it, or fewer where they run out."""
    taken = dict.fromkeys(prompts)
    found: list[str] = []
    for number, prompt in enumerate(prompts):
        found.append(prompt)
        for turn in range(count):
            words = paraphrase(prompt, erase, number * count + turn, taken)
            if words is not None:
                taken[words] = None
                found.append(words)
    return tuple(found)


def _targets(desk: Desk, spoken: TemplateSet, erase: Sequence[str], loc: Loc) -> dict[str, str]:
    """Every phrasing, with the prompt that is drawn instead; "" is the empty prompt."""
    toward = desk.policy.erase.toward
    found: dict[str, str] = {}
    for index, template in enumerate(spoken.templates):
        one = TemplateSet(templates=(template,), values=spoken.values)
        instead = toward[index] if toward and index < len(toward) else ""
        if not {*placeholders(instead)} <= {*placeholders(template)}:
            continue  # refused already
        for item in desk.expand(one, erase, loc):
            found.setdefault(item.prompt, fill(instead, item.values))
    return found


def _check_toward(desk: Desk) -> None:
    """One target per phrasing, and no placeholder that its phrasing lacks."""
    entry = desk.policy.erase
    if entry.toward is None:
        return
    loc: Loc = ("erase", "toward")
    phrasings = entry.phrasings or ()
    if len(entry.toward) != len(phrasings):
        desk.source.refuse(
            loc, f"{len(entry.toward)} targets for {len(phrasings)} phrasings; give one for each"
        )
    desk.check([text for text in entry.toward if text], loc)
    for index, (target, phrasing) in enumerate(zip(entry.toward, phrasings, strict=False)):
        for name in placeholders(target):
            if name not in placeholders(phrasing):
                message = f"'{{{name}}}' does not stand in the phrasing '{phrasing}'"
                desk.source.refuse((*loc, index), message)


def resolve_phrasings(desk: Desk, default: Drawn) -> TemplateSet | None:
    """The templates of ``erase.phrasings``, None when the policy leaves them out."""
    entry = desk.policy.erase
    own = desk.values(entry.values, ("erase", "values"))
    _check_toward(desk)
    if entry.phrasings is None:
        return None
    values = {**(default.templates.values if default.templates else {}), **own}
    return desk.template_set(entry.phrasings, values, ("erase", "phrasings"))


def _check_names(desk: Desk) -> None:
    names: dict[str, str] = {}
    texts: dict[str, str] = {}
    for index, entry in enumerate(desk.policy.concepts):
        loc: Loc = ("concepts", index)
        if entry.name.casefold() == "all":
            message = f"'{entry.name}' stands for all concepts in reports; choose another name"
            desk.source.refuse((*loc, "name"), message)
        if entry.name.casefold() in names:
            desk.source.refuse((*loc, "name"), f"duplicate concept '{entry.name}'")
        names[entry.name.casefold()] = entry.name
        for position, text in enumerate(entry.erase):
            if text.casefold() in texts:
                other = texts[text.casefold()]
                message = f"'{text}' is already erased by concept '{other}'"
                desk.source.refuse((*loc, "erase", position), message)
            texts.setdefault(text.casefold(), entry.name)


def draw(
    desk: Desk, concepts: Sequence[ConceptPlan]
) -> tuple[tuple[ConceptPlan, ...], ErasureCheck]:
    """Choose the prompts that the erasure check draws, and check that they can prove its limit."""
    entry = desk.policy.verify.erasure
    loc: Loc = ("verify", "erasure")
    hub = [c.name for c in concepts if c.hub_prompts]
    if hub and entry.num_prompts is None:
        desk.source.refuse(loc, f"prompts of '{hub[0]}' come from the hub, so say num_prompts")
    available = [entry.num_prompts or 0 if c.hub_prompts else len(c.prompts) for c in concepts]
    if entry.over == "each":
        asked = entry.num_prompts or min(available)
        quotas = [min(asked, most) for most in available]
        short = [c.name for c, most in zip(concepts, available, strict=True) if most < asked]
        where = f" for concept '{short[0]}'" if short else ""
        most = min(available)
    else:
        asked = entry.num_prompts or sum(available)
        quotas = share(asked, available)
        where, most = "", sum(available)
    if most < asked and not desk.incomplete:
        message = f"only {most} distinct prompts{where}; add templates or values, or ask for fewer"
        desk.source.refuse((*loc, "num_prompts"), message)
    if entry.num_prompts or not desk.incomplete:
        _check_provable(desk, entry, asked, loc)
    check = ErasureCheck(
        max_rate=entry.max_rate,
        confidence=entry.confidence,
        over=entry.over,
        num_prompts=asked,
        min_base_rate=entry.min_base_rate,
        line=desk.source.line((*loc, "max_rate")),
    )
    drawn = tuple(_cut(c, n) for c, n in zip(concepts, quotas, strict=True))
    if entry.over == "all" and not desk.source.problems:  # which may be why they draw the same
        _check_apart(desk, drawn, loc)
    return drawn, check


def _check_apart(desk: Desk, concepts: Sequence[ConceptPlan], loc: Loc) -> None:
    """Over all, a picture is one sample: concepts that draw the same one would count it twice."""
    owners: dict[object, str] = {}
    for concept in concepts:
        hub = concept.hub_prompts
        drawn: list[object] = [item.prompt for item in concept.prompts]
        if hub is not None:
            drawn.append((hub.dataset, hub.revision, hub.split, hub.column))
        shared = [owners[key] for key in drawn if key in owners]
        if shared:
            desk.source.refuse(
                (*loc, "over"),
                f"concepts '{shared[0]}' and '{concept.name}' draw the same prompts; over all, a "
                "picture can't count twice; say over: each, or give each prompts of its own",
            )
            return
        owners |= dict.fromkeys(drawn, concept.name)


def _cut(concept: ConceptPlan, num_prompts: int) -> ConceptPlan:
    hub = concept.hub_prompts
    return replace(
        concept,
        prompts=concept.prompts[:num_prompts],
        hub_prompts=replace(hub, num_prompts=num_prompts) if hub else None,
    )


def _check_provable(desk: Desk, entry: schema.Erasure, num_prompts: int, loc: Loc) -> None:
    if num_prompts == 0:
        return
    if entry.max_rate == 0.0:
        message = "no number of prompts proves a rate of 0; 0.01 takes 299 without a hit"
        desk.source.refuse((*loc, "max_rate"), message)
        return
    rule = desk.policy.verify.budget.rule
    best = smallest_provable_rate(num_prompts, entry.confidence, rule)
    if best > entry.max_rate:
        needed = prompts_to_prove_rate(entry.max_rate, entry.confidence, rule)
        message = (
            f"cannot be proven: 0 hits in {num_prompts} prompts bound the rate at "
            f"{show(best, entry.max_rate)} (confidence {entry.confidence:g}); "
            f"{entry.max_rate:g} takes {needed} prompts"
        )
        desk.source.refuse((*loc, "max_rate"), message)
