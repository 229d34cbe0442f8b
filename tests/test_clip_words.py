"""CLIP's real vocabulary, from the package ``open_clip_torch``, which is installed for this file.

Its code is not imported (it needs torchvision, of which no build fits), so ``make test`` installs
it without its dependencies; where it is not installed these tests are skipped.
"""

import gzip
import importlib.metadata
import itertools
import json
import re
from pathlib import Path

import pytest
from tiny import tiny_pipeline
from transformers import CLIPTokenizer

from safediff.attack.own_tokens import room, searchable_words
from safediff.erase.texts import TextBank
from safediff.errors import UsageError
from safediff.models.clip_text import token_ids
from safediff.models.stable_diffusion import StableDiffusion
from safediff.policy.content import check_text
from safediff.policy.load import load_plan
from safediff.policy.window import MAX_TOKENS

NUM_MERGES = 49152 - 256 - 2
"""CLIP's vocabulary has 49408 entries: 2 x 256 bytes, the merges, start and end."""
ROOT = Path(__file__).parents[1]


def merges_file() -> Path | None:
    try:
        files = importlib.metadata.files("open_clip_torch") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [file for file in files if file.name == "bpe_simple_vocab_16e6.txt.gz"]
    return Path(str(found[0].locate())) if found else None


FILE = merges_file()
pytestmark = pytest.mark.skipif(
    FILE is None,
    reason="reads CLIP's real vocabulary, which lies in a package that `make test` installs: pip "
    "install --no-deps open_clip_torch",
)


PLAIN = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PLAIN]
LETTERS = {byte: chr(byte) for byte in PLAIN} | {
    byte: chr(256 + number) for number, byte in enumerate(OTHERS)
}
"""What GPT-2's byte-level encoding writes for each byte, in its own order."""


@pytest.fixture(scope="module")
def merges() -> list[tuple[str, str]]:
    assert FILE is not None
    lines = gzip.decompress(FILE.read_bytes()).decode("utf-8").split("\n")[1 : NUM_MERGES + 1]
    return [(a, b) for a, b in (line.split() for line in lines)]


@pytest.fixture(scope="module")
def tokenizer(
    merges: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("clip")
    letters = list(LETTERS.values())
    words = [*letters, *(f"{x}</w>" for x in letters), *(a + b for a, b in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == 49408
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    rows = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


@pytest.fixture(scope="module")
def backbone(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    """The tiny model with the real tokenizer, and a row of embeddings for every word."""
    pipeline = tiny_pipeline(tmp_path_factory.mktemp("words"))
    pipeline.text_encoder.resize_token_embeddings(len(tokenizer))
    # the encoder pools at the end token, which is the largest id, as in CLIP
    pipeline.text_encoder.config.eos_token_id = 2
    pipeline.tokenizer = tokenizer
    return StableDiffusion.from_pipeline("tiny", pipeline)


def by_hand(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte pair encoding as the papers write it: the earliest merge first, until none applies."""
    rank = {pair: number for number, pair in enumerate(merges)}
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+"
    found = []
    for word in re.findall(pattern, " ".join(text.lower().split())):
        parts = [LETTERS[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: rank.get(pair, len(rank)))
            if best not in rank:
                break
            first, merged = pairs.index(best), "".join(best)
            parts = [*parts[:first], merged, *parts[first + 2 :]]
        found += parts
    return found


def test_ids_are_those_that_clip_is_known_by(tokenizer: CLIPTokenizer) -> None:
    (row,) = token_ids(tokenizer, ["a photo of a cat"]).tolist()
    assert row[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert row[7:] == [49407] * 70
    assert tokenizer("dog").input_ids == [49406, 1929, 49407]


@pytest.mark.parametrize(
    "text",
    [
        "Van Gogh's starry night, 4k!!",
        "kitchen knife, noto style",
        "a photorealistic harbour in 1887",
        "caf\u00e9 terrace",
        "don't stop (at all) ...",
        "antidisestablishmentarianism",
    ],
)
def test_words_are_split_as_by_hand(
    tokenizer: CLIPTokenizer, merges: list[tuple[str, str]], text: str
) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == by_hand(text, merges)


def test_the_window_is_counted_in_tokens(backbone: StableDiffusion) -> None:
    """75 common words fit; a word that is several tokens counts as such."""
    assert len(backbone.encode(["cat " * 75])) == 1
    with pytest.raises(UsageError, match="text has 76 tokens, the text encoder reads 75"):
        backbone.encode(["cat " * 76])
    with pytest.raises(UsageError, match="text encoder reads 75"):
        backbone.encode(["photorealisticharbours " * 40])
    assert room(backbone, "a photo of a cat") == 77 - 7


@pytest.mark.parametrize("name", ["nsfw", "i2p", "artist"])
def test_texts_of_the_shipped_policies_fit(backbone: StableDiffusion, name: str) -> None:
    plan = load_plan(ROOT / "policies" / f"{name}.yaml")
    bank = TextBank(backbone, plan.concepts, plan.erase.keep)  # joined, alone and in phrasings
    assert bank.joined is not None
    joined = ", ".join(text for text, _ in bank.units)
    num_tokens = len(backbone.tokenizer(joined).input_ids) - 2
    assert num_tokens <= MAX_TOKENS
    # the estimate that a policy is held to before any tokenizer is there is on the safe side
    assert num_tokens <= 1.5 * len(joined.split()) + 1 + joined.count(",")


def test_words_of_the_search_are_plain_and_allowed(backbone: StableDiffusion) -> None:
    found = searchable_words(backbone)
    assert len(found.spelt) > 20_000
    assert {"cat", "knife", "painting"} <= set(found.spelt)
    assert all(word.isascii() and word.isalpha() for word in found.spelt)
    assert all(check_text(word) is None for word in found.spelt[::97])
    ids = backbone.tokenizer(list(found.spelt[::97]), add_special_tokens=False).input_ids
    assert all(row == [n] for row, n in zip(ids, found.ids[::97].tolist(), strict=True))
