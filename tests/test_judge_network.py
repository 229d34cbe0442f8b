"""The judge's network: shapes, unit vectors, independence of the batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from safediff.judge.network import EMBEDDING_WIDTH, FEATURE_WIDTH, JudgeNetwork

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def network() -> JudgeNetwork:
    torch.manual_seed(0)
    return JudgeNetwork(num_names=5, num_styles=3, vocabulary_size=20).requires_grad_(False).eval()


def test_shapes(network: JudgeNetwork) -> None:
    vision = network.see(IMAGES)
    assert [tuple(m.shape[1:]) for m in vision.maps] == [
        (32, 32, 32),
        (64, 16, 16),
        (128, 8, 8),
        (FEATURE_WIDTH, 4, 4),
    ]
    assert vision.features.shape == (3, FEATURE_WIDTH)
    assert vision.embedding.shape == (3, EMBEDDING_WIDTH)
    assert vision.object_logits.shape == (3, 6)
    assert vision.style_logits.shape == (3, 3)
    torch.testing.assert_close(vision.features, vision.maps[-1].mean((2, 3)))


def test_size_is_as_documented() -> None:
    network = JudgeNetwork(num_names=200, num_styles=3, vocabulary_size=1536)
    assert 1.1e6 < sum(p.numel() for p in network.parameters()) < 1.5e6


def test_vectors_have_unit_length(network: JudgeNetwork) -> None:
    for vectors in (network.see(IMAGES).embedding, network.read([[1, 2], [3]])):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_pictures_do_not_depend_on_their_batch(network: JudgeNetwork) -> None:
    together = network.see(IMAGES).object_logits
    alone = torch.cat([network.see(image[None]).object_logits for image in IMAGES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_texts_of_several_lengths(network: JudgeNetwork) -> None:
    texts = [[1, 2, 3], [4], [5, 6]]

    def expected(ids: list[int]) -> Tensor:
        bag = network.tokens.weight[ids].mean(0)
        return F.normalize(bag + network.text(bag), dim=0)

    torch.testing.assert_close(network.read(texts), torch.stack([expected(t) for t in texts]))
    torch.testing.assert_close(network.read([[3, 1, 2]])[0], expected(texts[0]))


def test_every_parameter_is_used() -> None:
    network = JudgeNetwork(num_names=5, num_styles=3, vocabulary_size=4)
    vision = network.see(IMAGES)
    scores = vision.embedding @ network.read([[0, 1], [2, 3]]).T * network.log_temperature.exp()
    loss = scores.sum() + vision.object_logits.square().sum() + vision.style_logits.square().sum()
    loss.backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []
