"""Captions of the training pictures, and the byte-pair tokenizer learned from them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from safediff.build.data import STYLES, Picture

STYLED = (
    "{name}, {style} style",
    "{style} style {name}",
    "a {name}, {style} style",
    "a {style} style picture of a {name}",
)
PLAIN = ("{name}", "a picture of a {name}")
VOCABULARY_SIZE = 1536
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def draw_caption(picture: Picture, rng: random.Random) -> str:
    """One caption: empty 10 %, canonical 36 %, other styled 30 %, plain 12 %, keywords 12 %."""
    point = rng.random()
    if point < 0.10:
        return ""
    if point < 0.46:
        template = STYLED[0]
    elif point < 0.76:
        template = rng.choice(STYLED[1:])
    elif point < 0.88:
        template = rng.choice(PLAIN)
    else:
        words = rng.sample(picture.keywords, k=min(len(picture.keywords), rng.randint(1, 3)))
        return ", ".join([*words, f"{picture.style} style"][: rng.randint(1, len(words) + 1)])
    return template.format(name=picture.name, style=picture.style)


def build_tokenizer(items: list[Picture], folder: Path) -> CLIPTokenizer:
    """Learn the vocabulary and write a CLIP tokenizer (all file forms) to ``folder``.

    A tokenizer that is there already is read instead: learning breaks ties in no fixed order, and
    the stages after it depend on the token ids.
    """
    if (folder / "tokenizer.json").exists():
        known: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(folder))
        return known
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(items), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    # Every byte also as the end of a word, as in CLIP: no text is ever unknown.
    vocabulary: dict[str, int] = {}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    for token in [*alphabet, *(a + "</w>" for a in alphabet), *model["vocab"], START, END]:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    clip = CLIPTokenizer(
        vocab=vocabulary,
        merges=[tuple(m.split()) for m in merges],  # type: ignore[misc]  # declared as strings
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=77,
    )
    clip.save_pretrained(folder)
    return clip


def _corpus(items: list[Picture]) -> Iterator[str]:
    for item in items:
        yield from [item.name] * 20
        yield from item.keywords
        yield from (template.format(name=item.name, style=item.style) for template in STYLED)
    yield from (f"{style} style" for style in STYLES)
