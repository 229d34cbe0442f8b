"""Content rules: nothing in a policy, and no prompt that is drawn, may denote a minor.

The rule is broad on purpose: a text refused in error costs one rewording. It applies to words,
not to what a text is about; ``cowboy hat`` and ``kidney beans`` pass, ``boy in a hat`` does not.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from safediff.errors import UsageError

_WORDS = """
adolescent adolescents adolescence babies baby boy boys boyish child childhood childish childlike
children childs fetus foetus girl girlish girls grader graders infant infantile infants
jailbait juvenile juveniles kid kiddie kiddies kids kiddo kindergarten kindergartener
kindergartner lad lads lass lasses loli lolicon lolis lolita lolitas minor minors neonate newborn
newborns nymphet nymphets prepubescent preschool preschooler preschoolers preteen preteens
prepubertal puberty pubescent schoolboy schoolboys schoolchild schoolchildren schoolgirl
schoolgirls shota shotacon teen teenage teenaged teenager teenagers teenie teens toddler
toddlers tween tweens underage underaged youngster youngsters youth youths

bambina bambine bambini bambino criança crianças enfant enfants fille fillette filles garçon
garçons mädchen menina meninas menino meninos niña niñas niño niños ragazza ragazze ragazzo
девочка девочки дети мальчик мальчики ребенок ребёнок
"""

_STEMS = ("儿童", "兒童", "女孩", "男孩", "少女", "少年", "幼女", "小孩", "子供", "孩子", "ロリ")
"""Written without spaces, so they are looked for anywhere."""

_AGE = (
    r"(?P<age>\d{1,2}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen"
    r"|fourteen|fifteen|sixteen|seventeen)"
)
_AGES = (
    re.compile(rf"\b{_AGE}\s*(?:years?|yrs?)\s+(?:of age|olds?|young)\b"),
    re.compile(rf"\b{_AGE}\s*(?:yo|y o|yos|yrs? old|yearolds?|months? olds?|weeks? olds?)\b"),
    re.compile(rf"\b(?:aged?|age of|ages)\s+{_AGE}\b"),
)
_MONTHS = re.compile(r"\b(?:\d+|[a-z]+)\s+(?:months?|weeks?|days?)\s+olds?\b")
_UNDER = re.compile(r"\b(?:under|below)\s+(?:18|eighteen)\b|\bunder\s+age\b|\bpre\s+teens?\b")
_APOSTROPHES = str.maketrans("", "", "'\u2019")
_DISGUISE = str.maketrans("013457@$", "oieastas")
_WORD = re.compile(r"[^\W_]+")
_WORD_SET = frozenset(_WORDS.split())


def check_text(text: str) -> str | None:
    """Why ``text`` is refused (a sentence naming the word that matched), or None if it may be used.

    Case, combining accents, invisible characters, hyphens, underscores and digits for letters
    (``t33n``) make no difference.
    """
    if not text.isascii():
        visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
        text = unicodedata.normalize("NFKC", visible)
    found = _denotes_minor(text.casefold())
    if found is None:
        return None
    return f"'{found}' can denote a minor; texts about minors are refused"


def _denotes_minor(plain: str) -> str | None:
    words = _WORD.findall(plain.translate(_APOSTROPHES))
    disguised = _WORD.findall(plain.translate(_DISGUISE))
    if found := _WORD_SET.intersection(words) or _WORD_SET.intersection(disguised):
        return min(found)
    for stem in _STEMS:
        if stem in plain:
            return stem
    spaced = " ".join(words)
    for pattern in (_MONTHS, _UNDER):
        if match := pattern.search(spaced):
            return str(match.group())
    for pattern in _AGES:
        for match in pattern.finditer(spaced):
            age = match["age"]
            if not age.isdigit() or int(age) < 18:
                return str(match.group())
    return None


def first_refused(texts: Sequence[str]) -> tuple[str, str] | None:
    """The first text that is refused and why; None if all may be used.

    Much faster than one call each: no pattern contains "and", so no match spans two texts.
    """
    if check_text(" and ".join(texts)) is None:
        return None
    for text in texts:
        if reason := check_text(text):
            return text, reason
    return None


def require_allowed(prompts: Sequence[str]) -> None:
    """Refuse prompts that are about to be drawn.

    Raises:
        UsageError: one may not be used; the message names its word, not the prompt.
    """
    if refused := first_refused(prompts):
        raise UsageError(f"prompt: {refused[1]}", "leave it out, or reword it")


def filter_texts(texts: Iterable[str]) -> tuple[list[str], int]:
    """The texts that may be used, in order, and how many were skipped."""
    given = list(texts)
    kept = [text for text in given if check_text(text) is None]
    return kept, len(given) - len(kept)
