"""CLIP score: how well pictures fit their texts, as the cosine in a shared space.

Published numbers come on several scales: the cosine itself (about 0.27 with ViT-L/14), 100 times
it (about 31 with ViT-B/32), 2.5 times it where positive (Hessel et al. 2021, arXiv:2104.08718).
Here it is the cosine. Print the model beside it; values of two models do not compare.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from safediff.metrics.sources import EmbeddingSource


def clip_scores(source: EmbeddingSource, batches: Iterable[Tensor], texts: Sequence[str]) -> Tensor:
    """Cosine (n,) of every uint8 picture, batches of (b, 3, H, W), and its own text.

    One value a picture, so that a mean over them weighs all alike, however they were batched.

    Raises:
        ValueError: not as many texts as pictures.
    """
    vectors = torch.cat([source.embed_images(images) for images in batches])
    if len(vectors) != len(texts):
        raise ValueError(f"{len(vectors)} pictures and {len(texts)} texts")
    return (vectors * source.embed_texts(texts)).sum(1)
