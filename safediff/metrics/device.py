"""Where feature networks compute: on the GPU that models are loaded onto, in whole float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def best_device() -> str:
    """The device that ``load_backbone`` takes, too."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def whole_float32() -> Iterator[None]:
    """Without TF32, which drops 13 bits of what is multiplied; what was set is set again."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
