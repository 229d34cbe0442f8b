"""Captions and the tokenizer learned from them."""

import random
from collections import Counter
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from safediff.build.captions import build_tokenizer, draw_caption
from safediff.build.data import Picture

ITEMS = [
    Picture(name=name, style=style, keywords=(*name.split(), "thing"), path=Path("none"))
    for name in ("bow and arrow", "hammer")
    for style in ("noto", "fluent")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> CLIPTokenizer:
    return build_tokenizer(ITEMS, folder)


def test_shares_of_captions() -> None:
    rng = random.Random(0)
    found = Counter(draw_caption(ITEMS[3], rng) for _ in range(4000))
    assert found[""] / 4000 == pytest.approx(0.10, abs=0.02)
    assert found["hammer, fluent style"] / 4000 == pytest.approx(0.36, abs=0.06)
    plain = found["a picture of a hammer"] / 4000
    assert plain == pytest.approx(0.06, abs=0.02)
    assert found["fluent style hammer"] / 4000 == pytest.approx(0.10, abs=0.02)


def test_trained_words_are_few_tokens(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("hammer, fluent style", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "hammer</w>",
        ",</w>",
        "fluent</w>",
        "style</w>",
    ]
    assert tokenizer.decode(ids) == "hammer , fluent style"


def test_no_text_is_unknown(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("zebra \u00e9\u4e2d 42!", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert "".join(tokenizer.decode(ids).split()) == "zebra\u00e9\u4e2d42!"
    whole = tokenizer("HAMMER").input_ids
    assert whole == tokenizer("hammer").input_ids
    assert whole[0] == tokenizer.bos_token_id
    assert whole[-1] == tokenizer.eos_token_id


def test_saved_tokenizer_reads_alike(tokenizer: CLIPTokenizer, folder: Path) -> None:
    text = "a bow and arrow, noto style"
    assert {"vocab.json", "merges.txt"} <= {file.name for file in folder.iterdir()}
    saved = CLIPTokenizer.from_pretrained(folder)
    assert saved(text).input_ids == tokenizer(text).input_ids
    assert saved.model_max_length == 77
