"""A small valid policy, edited by the tests, and the findings of its edited forms."""

from pathlib import Path

import pytest

from safediff.errors import PolicyError
from safediff.policy.load import load_plan
from safediff.policy.plan import Plan

POLICY = """\
version: 1
name: small
model: {base: embedded}
prompts:
  templates: ["{text}, {style} style", "a {style} {text}", "{text}"]
  values: {style: [noto, twemoji, fluent]}
concepts:
  - name: knife
    erase: [kitchen knife]
  - name: blades
    erase: [dagger, axe]
keep: [banana, hammer, dagger, rose]
verify:
  erasure: {max_rate: 0.25, num_prompts: 18}
  retention:
    - {name: near, min_ratio: 0.8, num_prompts: 14, texts: [hammer, wrench]}
    - {name: far, min_ratio: 0.9, texts: {file: far.txt}}
  judge: {min_specificity: 0.5}
"""
FAR = ["banana", "hammer", "axe", "rose", "owl", "crab", "key", "bell"]


def write(folder: Path, *edits: tuple[str, str], text: str = POLICY) -> Path:
    """The policy with every (old, new) applied, beside its text file."""
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "far.txt").write_text("# far things\n" + "\n".join(FAR) + "\n", encoding="utf-8")
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def plan_of(folder: Path, *edits: tuple[str, str]) -> Plan:
    """The plan of the edited policy."""
    return load_plan(write(folder, *edits))


def findings(folder: Path, *edits: tuple[str, str], text: str = POLICY) -> list[str]:
    """First lines of the findings, ``line:column: error: ...``."""
    path = write(folder, *edits, text=text)
    with pytest.raises(PolicyError) as caught:
        load_plan(path)
    heads = [problem.splitlines()[0] for problem in caught.value.problems]
    assert all(head.startswith(f"{path}:") for head in heads)
    return [head.removeprefix(f"{path}:") for head in heads]
