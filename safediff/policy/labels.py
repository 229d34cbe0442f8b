"""Judge labels that are known before the judge is loaded."""

from collections.abc import Iterable, Sequence

from safediff.build.names import NAMES
from safediff.judge.nudity_rules import CLASSES
from safediff.policy.content import check_text
from safediff.policy.desk import Desk
from safediff.policy.plan import ConceptPlan, RetentionCheck
from safediff.policy.problems import Loc, did_you_mean

STYLES = ("noto", "twemoji", "fluent")

_KNOWN = {
    "embedded": frozenset((*NAMES, *(f"{style} style" for style in STYLES))),
    "nudenet": frozenset(("nudity", *CLASSES)),
    "q16": frozenset(("inappropriate",)),
}
"""Open-vocabulary judges are missing here: they take any text."""

_HAS = {
    "embedded": f"the {len(NAMES)} names and {len(STYLES)} styles of the embedded model",
    "nudenet": f"'nudity' and {len(CLASSES)} classes",
    "q16": "'inappropriate' alone",
}
_MOST_SHOWN = 3
"""Unknown labels of one key that are findings of their own: with more it is the wrong judge."""


def check_labels(desk: Desk, judge: str, labels: Iterable[str], loc: Loc) -> None:
    """Refuse labels that the judge cannot give (those against content rules already are)."""
    known = _KNOWN.get(judge)
    if known is None:
        return
    unknown = {
        index: label
        for index, label in enumerate(labels)
        if label not in known and check_text(label) is None
    }
    if len(unknown) > _MOST_SHOWN:
        first = next(iter(unknown.values()))
        message = f"judge '{judge}' has no label for {len(unknown)} texts ('{first}', ...)"
        desk.source.refuse(loc, f"{message}; it has {_HAS[judge]}: docs/judges.md")
        return
    for index, label in unknown.items():
        at = (*loc, index) if (*loc, index) in desk.source.marks else loc
        hint = did_you_mean(label, known) or f"; it has {_HAS[judge]}: docs/judges.md"
        desk.source.refuse(at, f"judge '{judge}' has no label '{label}'{hint}")


def check_label_owners(
    desk: Desk, concepts: Sequence[ConceptPlan], retention: Sequence[RetentionCheck]
) -> None:
    """Refuse an erased label that two judges are asked for: of each label one score is kept."""
    asked = [(concept.judge, concept.labels) for concept in concepts]
    asked += [(group.judge, prompt.labels) for group in retention for prompt in group.prompts]
    judges: dict[str, dict[str, None]] = {}
    for judge, labels in asked:
        for label in labels:
            judges.setdefault(label, {})[judge] = None
    for index, concept in enumerate(concepts):
        key = "labels" if desk.policy.concepts[index].labels else "erase"
        for label in concept.labels:
            if len(judges[label]) > 1:
                names = " and ".join(f"'{name}'" for name in sorted(judges[label]))
                message = f"judges {names} are both asked for the label '{label}': ask one of them"
                desk.source.refuse(("concepts", index, key), message)
