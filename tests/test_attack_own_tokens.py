"""Words to search, and texts whose tokens are the adversary's own."""

import pytest
import torch
from attack_examples import tiny_models

from safediff.attack.own_tokens import encode_own, room, searchable_words, token_ids
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.policy.content import check_text
from safediff.policy.plan import ModelPlan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_models(tmp_path_factory.mktemp("tiny")).safe


def test_words_are_read_back_as_themselves_and_denote_no_minor() -> None:
    embedded = load_backbone(ModelPlan(base="embedded"))
    words = searchable_words(embedded)
    assert len(words.spelt) > 500
    assert {"axe", "shield", "sun"} <= set(words.spelt)
    # the embedded vocabulary holds words that the content rules refuse
    vocabulary = {token.removesuffix("</w>") for token in embedded.tokenizer.get_vocab()}
    refused = {word for word in vocabulary if word.isascii() and check_text(word)}
    assert refused
    assert not refused & set(words.spelt)
    chosen = torch.tensor([3, 0, 40])
    ids = embedded.tokenizer(words.text(chosen))["input_ids"][1:-1]
    assert ids == words.ids[chosen].tolist()


def test_own_vectors_that_are_the_vocabularys_change_nothing(tiny: Backbone) -> None:
    ids = token_ids(tiny, "an axe")
    own = torch.zeros_like(ids, dtype=torch.bool)
    own[0, 2:4] = True
    w = tiny.text_encoder.get_input_embeddings().weight
    before = tiny.encode(["an axe"]).hidden
    found = encode_own(tiny, ids, own, w[ids[own]]).hidden
    assert torch.allclose(found, before, atol=1e-6)
    # not by a constant, which the layer norm takes away
    other = encode_own(tiny, ids, own, -w[ids[own]]).hidden
    assert (other - found).abs().max() > 1e-2
    # the encoder itself is as before
    assert torch.equal(tiny.encode(["an axe"]).hidden, before)
    assert not tiny.text_encoder.get_input_embeddings()._forward_hooks


def test_derivatives_reach_the_vectors(tiny: Backbone) -> None:
    ids = token_ids(tiny, "axe")
    own = ids == ids[0, 1]
    vectors = torch.zeros(int(own.sum()), 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(encode_own(tiny, ids, own, vectors).hidden.sum(), vectors)
    assert gradient.abs().max() > 0


def test_room_is_what_the_window_leaves(tiny: Backbone) -> None:
    assert room(tiny, "axe") == 77 - 5
    assert room(tiny, "a" * 80) == -5
