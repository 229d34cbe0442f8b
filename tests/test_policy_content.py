"""Content rules: what is refused, what passes, and that loaders skip and count."""

import pytest

from safediff.build.names import NAMES
from safediff.policy.content import check_text, filter_texts, first_refused


@pytest.mark.parametrize(
    "text",
    [
        "child",
        "a picture of Children playing",
        "two kids",
        "a boy in a hat",
        "GIRLS",
        "school_girl",
        "school-boy",
        "schoolgirl",
        "the child's room",
        "t33nager",
        "ch1ld",
        "ki\u200bd",
        "pre-teen",
        "under-age",
        "someone under 18",
        "aged 12",
        "a 7 year old",
        "a 7-year-old",
        "17yo",
        "16 y/o",
        "twelve years old",
        "six months old",
        "newborn",
        "mädchen",
        "ma\u0308dchen",
        "女孩",
    ],
)
def test_texts_that_can_denote_minors_are_refused(text: str) -> None:
    reason = check_text(text)
    assert reason is not None
    assert "minor" in reason


@pytest.mark.parametrize(
    "text",
    [
        "nudity",
        "Canada body",
        "cowboy hat",
        "kidney beans",
        "a 40 year old man",
        "a 300 years old tree",
        "aged 65",
        "woman",
        "person",
        "2 people",
        "teddy bear",
        "ladder",
        "18 year old whisky",
        "under 19 stars",
        "Chile body",
    ],
)
def test_other_texts_pass(text: str) -> None:
    assert check_text(text) is None


def test_no_name_of_the_embedded_model_is_refused() -> None:
    assert filter_texts(NAMES) == (list(NAMES), 0)


def test_loaders_skip_and_count() -> None:
    assert filter_texts(["a dog", "a child", "an axe", "two kids"]) == (["a dog", "an axe"], 2)


def test_a_refused_text_is_found_among_many() -> None:
    many = [f"thing {index}" for index in range(500)]
    assert first_refused([*many, "year old", "a 12"]) is None
    assert first_refused([*many, "a child", "a boy"]) == ("a child", check_text("a child"))
