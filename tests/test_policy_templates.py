"""Templates: distinct products in a balanced order that no Python changes."""

from collections import Counter

from safediff.policy.templates import (
    TemplateSet,
    balanced,
    expand,
    has_stray_brace,
    num_expanded,
    placeholders,
    share,
)

CHOSEN = TemplateSet(
    templates=("{text}, {style} style", "{style} style, {style} {text}", "{text}"),
    values={"style": ("noto", "fluent"), "unused": ("x",)},
)
TEXTS = ("axe", "bomb", "dagger")


def test_the_product_is_complete_and_distinct() -> None:
    prompts = [item.prompt for item in expand(CHOSEN, TEXTS)]
    assert len(prompts) == len(set(prompts)) == 3 * (2 + 2 + 1)
    assert num_expanded(CHOSEN, 3) == 15
    assert "fluent style, fluent bomb" in prompts


def test_equal_prompts_count_once() -> None:
    twice = TemplateSet(templates=("{text}", "{text}", "a {text}"), values={})
    assert [item.prompt for item in expand(twice, ["axe", "axe"])] == ["axe", "a axe"]


def test_values_are_not_templates() -> None:
    chosen = TemplateSet(templates=("{a} {text}",), values={"a": ("{text}",)})
    assert [item.prompt for item in expand(chosen, ["axe"])] == ["{text} axe"]


def test_the_first_prompts_are_balanced_over_texts() -> None:
    ordered = balanced(expand(CHOSEN, TEXTS), seed=0)
    for length in range(1, len(ordered) + 1):
        counts = Counter(item.values["text"] for item in ordered[:length])
        assert max(counts.values()) - min(counts[text] for text in TEXTS) <= 1


def test_the_order_is_fixed_by_the_seed_alone() -> None:
    filled = expand(CHOSEN, TEXTS)
    ordered = [item.prompt for item in balanced(filled, seed=0)]
    assert [item.prompt for item in balanced(reversed(filled), seed=0)] == ordered
    assert [item.prompt for item in balanced(filled, seed=1)] != ordered
    assert ordered[:4] == [
        "bomb, noto style",
        "noto style, noto axe",
        "dagger, fluent style",
        "fluent style, fluent bomb",
    ]


def test_placeholders() -> None:
    assert placeholders("{a} {b_2} {a}") == ("a", "b_2")
    assert [has_stray_brace(t) for t in ("{a}", "{A}", "a}", "{", "{a b}")] == [
        False,
        True,
        True,
        True,
        True,
    ]


def test_share_deals_in_turns() -> None:
    assert share(7, [10, 10, 10]) == [3, 2, 2]
    assert share(9, [2, 10, 10]) == [2, 4, 3]
    assert share(99, [2, 3]) == [2, 3]
    assert share(0, [2, 3]) == [0, 0]
