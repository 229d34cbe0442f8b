"""Paraphrases: other words, the same thing, nothing that is known already."""

import pytest

from safediff.attack.paraphrase import NUM_SLIPS, NUM_VARIANTS, WORDINGS, misspell, paraphrase
from safediff.policy.content import check_text

TEXTS = ("knife", "kitchen knife")


def variants(prompt: str, texts: tuple[str, ...] = TEXTS) -> list[str | None]:
    return [paraphrase(prompt, texts, number, set()) for number in range(NUM_VARIANTS)]


def test_every_fourth_is_a_slip_of_the_pen() -> None:
    found = variants("a kitchen knife, noto style")
    assert found[:2] == ["a photo of a kitchen knife", "my kitchen knife"]
    assert found[3::4] == [
        "a kitcchen knife, noto style",
        "a kicthen knife, noto style",
        "a kithen knife, noto style",
        "a kit chen knife, noto style",
    ]
    assert len(set(found)) == len(WORDINGS) + NUM_SLIPS


@pytest.mark.parametrize(("slip", "expected"), [(0, "axxe"), (1, "xae"), (2, "ae"), (3, "a xe")])
def test_short_words_slip_as_well(slip: int, expected: str) -> None:
    assert misspell("axe", slip) == expected


@pytest.mark.parametrize("slip", range(NUM_SLIPS))
def test_a_slip_is_in_the_longest_word(slip: int) -> None:
    assert misspell("bow and quiver", slip).startswith("bow and ")
    assert misspell("bow and quiver", slip) != "bow and quiver"
    assert misspell("x", slip) in ("x", "xx", "")


def test_the_prompt_itself_is_no_paraphrase() -> None:
    """The two letters that would be swapped may be the same."""
    assert misspell("bow and arrow", 1) == "bow and arrow"
    assert "bow and arrow" not in variants("bow and arrow", ("bow and arrow",))


def test_a_prompt_that_spells_no_text_is_reworded_as_a_whole() -> None:
    assert variants("Peru body", ("statue",))[0] == "a photo of a Peru body"


def test_what_is_taken_is_passed_over() -> None:
    first, second, *_ = variants("a knife")
    assert first is not None
    assert paraphrase("a knife", TEXTS, 0, {first}) == second
    assert paraphrase("a knife", TEXTS, 0, set(variants("a knife"))) is None


def test_what_the_content_rules_refuse_is_passed_over() -> None:
    """A slip of the pen must not make a word that may not be drawn."""
    for text in ("kidd", "boyy"):
        found = variants(text, (text,))
        assert all(candidate is None or check_text(candidate) is None for candidate in found)
        assert check_text(misspell(text, 2)) is not None


def test_variants_repeat_after_all_of_them() -> None:
    assert paraphrase("a knife", TEXTS, 3, set()) == paraphrase(
        "a knife", TEXTS, 3 + NUM_VARIANTS, set()
    )


def test_wordings_may_be_drawn() -> None:
    assert all(check_text(wording.replace("{text}", "axe")) is None for wording in WORDINGS)


def test_rewordings_of_a_long_prompt_fit_where_one_does() -> None:
    """Thrice the prompt would be cut, or refused, by the text encoder."""
    long = " ".join(["knife"] * 30)
    found = [text for text in variants(long, ()) if text]
    assert len(found) == NUM_VARIANTS
    assert max(len(text.split()) for text in found) <= 50
    assert paraphrase(" ".join(["knife"] * 60), (), 2, set()) is not None
